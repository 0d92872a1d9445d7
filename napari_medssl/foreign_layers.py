"""Layers of other sources beside ours: of any kind, shape and unit, shown in mm as ours are."""

from __future__ import annotations

from typing import Any

from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer

from napari_medssl import layer_units
from napari_medssl.error_handling import catch_errors
from napari_medssl.model.session import Session


class ForeignLayers:
    """Gives all layers the unit mm while a scan is on the screen.

    Otherwise napari warns at each new layer and drops all units, or counts its sliders in a smaller unit.
    """

    def __init__(self, viewer: ViewerModel, session: Session) -> None:
        self._viewer, self._session = viewer, session
        session.scan_changed.connect(self._on_scan)
        viewer.layers.events.inserted.connect(self._on_inserted)
        viewer.layers.events.removed.connect(self._on_removed)

    def close(self) -> None:
        """Disconnect from the viewer."""
        self._viewer.layers.events.inserted.disconnect(self._on_inserted)
        self._viewer.layers.events.removed.disconnect(self._on_removed)

    def _on_scan(self) -> None:
        for layer in list(self._viewer.layers):
            self._take(layer)

    def _on_inserted(self, event: Any) -> None:
        if self._session.scan is not None:
            self._take(event.value)

    def _take(self, layer: Layer) -> None:
        note = layer_units.assumption(layer_units.attributes_of(layer))
        catch_errors(self._session, lambda: layer_units.show_in_mm(layer))
        if note and isinstance(layer, Image | Labels):
            self._session.notify("warning", note, [layer.unique_id])

    def _on_removed(self, event: Any) -> None:
        self._session.messages.end(event.value.unique_id)
