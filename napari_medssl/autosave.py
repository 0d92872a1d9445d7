"""Brings strokes to the disk: soon after each, and at every moment after which it would be too late."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Labels
from superqt.utils import qdebounced

from napari_medssl.guard import guarded
from napari_medssl.session import Session

PAUSE_MS = 800
"""How long after the last stroke the annotation is written."""


class Autosave:
    """Watches the annotation layer of the scan on the screen."""

    def __init__(self, viewer: ViewerModel, session: Session) -> None:
        self.viewer, self.session = viewer, session
        self._layer: Labels | None = None
        self._dirty = False
        self._seen: Any = None
        self._soon = qdebounced(self._save, timeout=PAUSE_MS)
        viewer.layers.events.removing.connect(self._on_removing)

    def watch(self, layer: Labels) -> None:
        """Save this layer's strokes from now on."""
        self._layer, self._dirty, self._seen = layer, False, self._view_of(layer)
        for name in ("paint", "labels_update", "data"):
            getattr(layer.events, name).connect(self.touch)
        layer.events.set_data.connect(self._on_redrawn)

    @property
    def unsaved(self) -> Labels | None:
        """The layer whose strokes the disk has refused so far; it may have been deleted meanwhile."""
        return self._layer if self._dirty else None

    def touch(self, event: Any = None) -> None:
        """Something changed that has to be saved."""
        if self._layer is not None:
            self._dirty = True
            self.session.touch()
            self._soon()

    def flush(self) -> None:
        """Write the annotation now if it changed.

        Raises UserError (the disk's reasons); it is then still to be saved.
        """
        self._soon.cancel()
        if not self._dirty or self._layer is None or self.session.scan is None:
            return
        self.session.save_annotation(np.asarray(self._layer.data))
        self._dirty = False

    def close(self) -> None:
        """Let the viewer go."""
        self._soon.cancel()
        self.viewer.layers.events.removing.disconnect(self._on_removing)

    def _save(self) -> None:
        guarded(self.session, self.flush)

    def _on_redrawn(self, event: Any = None) -> None:
        """Undo and redo tell nobody; they redraw the layer without moving the view."""
        view = self._view_of(self._layer)
        if view == self._seen:
            self.touch()
        self._seen = view

    def _view_of(self, layer: Labels | None) -> Any:
        dims = self.viewer.dims
        return (dims.point, dims.order, dims.ndisplay, layer is None or layer.visible)

    def _on_removing(self, event: Any) -> None:
        """A layer is about to go, by whomever: its strokes are saved first."""
        if self.viewer.layers[event.index] is self._layer:
            self._save()
            self._layer = self._layer if self._dirty else None
