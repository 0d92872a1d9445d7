"""What the session means for the viewer: which layers there are and what they show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from medssl.core.errors import UserError
from medssl.core.io.volume import Volume
from medssl.core.labels.postprocess import Postprocessing
from medssl.core.project.project import Scan
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer

from napari_medssl import layers
from napari_medssl.annotate.autosave import Autosave
from napari_medssl.io.scan_loader import Opening
from napari_medssl.model.session import Session
from napari_medssl.predict.predictions import Predictions


class Workspace:
    """The four layers of the scan on the screen: scan, prediction, annotation, similarity.

    The layers are found by what their metadata says, so that a user may rename, hide or delete them.
    """

    def __init__(self, viewer: ViewerModel, session: Session) -> None:
        self.viewer = viewer
        self.session = session
        self.autosave = Autosave(viewer, session)
        self.opening = Opening(session, lambda scan: self._layer_with(scan) is not None)
        self._own: Image | None = None
        self._hidden: list[Layer] = []
        self.predictions = Predictions(viewer, session)
        session.scan_leaving.connect(self.leave)
        session.project_changed.connect(self._clear)
        session.scan_changed.connect(self.show_scan)
        session.classes_changed.connect(self._recolor)
        dims, stack = viewer.dims.events, viewer.layers.events
        self._emitters = (dims.point, dims.order, dims.ndisplay, stack.inserted, stack.removed)
        for emitter in self._emitters:
            emitter.connect(self._on_view)

    def close(self) -> None:
        """Let the viewer go. What would not be saved any more cannot be painted any more."""
        if self.annotation_layer is not None:
            self.annotation_layer.editable = False
        self.autosave.close()
        for emitter in self._emitters:
            emitter.disconnect(self._on_view)

    # --- layers --------------------------------------------------------------------------------------

    @property
    def scan_layer(self) -> Image | None:
        """The scan on the screen."""
        scan = self.session.scan
        return next((x for x in self._scan_layers() if scan and layers.entry_of(x)["scan"] == scan), None)

    @property
    def annotation_layer(self) -> Labels | None:
        """The layer that is painted on."""
        return layers.find(self.viewer.layers, layers.ANNOTATION)

    @property
    def prediction_layer(self) -> Labels | None:
        """The network's answer."""
        return self.predictions.layer

    def need_annotation(self) -> Labels:
        """The annotation layer. Raises UserError ("no-annotation")."""
        layer = self.annotation_layer
        if layer is None:
            raise UserError('There is no annotation yet; press "New annotation".', code="no-annotation")
        return layer

    # --- the scan on the screen ----------------------------------------------------------------------

    def leave(self) -> None:
        """Before another scan comes, or the window goes: strokes and view reach the disk."""
        self.autosave.flush()
        self.remember()

    def show_scan(self) -> None:
        """Show the session's scan with its annotation and its newest prediction."""
        scan = self.session.need_scan()
        self._remove(self.annotation_layer)
        self._remove(layers.find(self.viewer.layers, layers.SIMILARITY))
        layer = self._layer_with(scan) or self._show_volume(scan, self.opening.volume(scan))
        layers.entry_of(layer)["scan"] = scan.id
        for other in self._scan_layers():
            other.visible = other is layer
        layers.show_radiologically(self.viewer)
        annotation = self.session.need_project().annotation(scan.id)
        if annotation is not None:
            self._add_annotation(annotation.labels)
        self.predictions.show_newest()
        self._go_where_it_was_left(layer)

    def _layer_with(self, scan: Scan) -> Image | None:
        """The layer that shows this scan already: ours, or one that the user opened from its file."""
        for layer in self._scan_layers():
            entry = layers.entry_of(layer)
            if entry["scan"] == scan.id or (entry["path"] and Path(entry["path"]) == Path(scan.source)):
                return layer
        return None

    def _scan_layers(self) -> list[Image]:
        return [layer for layer in self.viewer.layers if layers.entry_of(layer).get("role") == layers.SCAN]

    def _show_volume(self, scan: Scan, volume: Volume) -> Image:
        """Put the scan into the layer that we made for an earlier one, or into a new one."""
        data, kwargs, _ = layers.scan_data(volume.array, volume.geometry, scan.id, scan.source, scan.id)
        layer = next((layer for layer in self._scan_layers() if layer is self._own), None)
        if layer is None:
            self._own = layer = Image(data, **kwargs)
            self.viewer.layers.insert(0, layer)
            return layer
        layer.data = data
        for name in ("scale", "metadata", "name", "contrast_limits"):
            setattr(layer, name, kwargs[name])
        return layer

    def _go_where_it_was_left(self, layer: Image) -> None:
        view = self.session.need_project().view_state
        place = view.get("slices", {}).get(self.session.scan)
        axis, index = place or (0, layer.data.shape[0] // 2)
        layers.show_slice(self.viewer.dims, layer, axis, min(index, layer.data.shape[axis] - 1))
        self.viewer.reset_view()

    # --- annotation ----------------------------------------------------------------------------------

    def new_annotation(self) -> None:
        """Make the layer to paint on (or go to it), with the brush in hand."""
        self.session.need_project().need_writable()
        scan, layer, unsaved = self.session.need_scan(), self.annotation_layer, self.autosave.unsaved
        if layer is None and unsaved is not None:
            layer = unsaved
            self.viewer.add_layer(layer)
        if layer is None:
            saved = self.session.need_project().annotation(scan.id)  # of a layer that was deleted
            nothing = np.zeros(scan.geometry.shape_zyx, dtype=np.uint8)
            layer = self._add_annotation(nothing if saved is None else saved.labels)
        self.paint(layer.selected_label or 1)

    def paint(self, label: int) -> None:
        """Take the brush for a class id, for sure background (255), or the eraser (0)."""
        layer = self.need_annotation()
        self.session.need_project().need_writable()
        self.viewer.layers.selection.active = layer
        layer.visible = True
        if label:
            layer.selected_label = label
        layer.mode = "paint" if label else "erase"

    def _add_annotation(self, labels: np.ndarray) -> Labels:
        self.session.need_class()
        scan, project = self.session.need_scan(), self.session.need_project()
        layer = layers.annotation_layer(labels, scan.geometry, scan.id, project.classes)
        self.viewer.add_layer(layer)
        layer.selected_label = project.classes[0].id
        self.autosave.watch(layer)
        layer.editable = not self.session.read_only
        return layer

    def toggle_complete(self) -> None:
        """Mark the slice on the screen complete, or take that back."""
        axis, index = layers.current_slice(self.viewer.dims, self.need_annotation())
        self.session.mark(axis, index, (axis, index) not in self.session.complete)
        self.autosave.touch()

    def go_to(self, axis: int, index: int) -> None:
        """Show a slice of the scan."""
        layer = self.annotation_layer or self.scan_layer
        if layer is not None:
            layers.show_slice(self.viewer.dims, layer, axis, index)

    def uncover(self, on: bool) -> None:
        """A free view of the scan: what covers it is hidden, or shown again."""
        if on:
            covers = (self.annotation_layer, self.prediction_layer)
            self._hidden += [layer for layer in covers if layer is not None and layer.visible]
        for layer in self._hidden:
            layer.visible = not on
        if not on:
            self._hidden = []

    def slice_on_screen(self) -> tuple[int, int] | None:
        """(axis, index) of the slice on the screen, None in 3D or outside of the scan."""
        layer = self.annotation_layer or self.scan_layer
        try:
            return layers.current_slice(self.viewer.dims, layer) if layer is not None else None
        except UserError:
            return None

    def _on_view(self, event: Any = None) -> None:
        self.session.view_changed.emit()

    def to_export(self) -> tuple[str, str, Postprocessing]:
        """(scan, run, cleaning) that an export writes now: strokes are saved, it is what is on the screen.

        Raises UserError ("no-scan", "no-prediction").
        """
        scan = self.session.need_scan()
        self.autosave.flush()
        return scan.id, self.predictions.need_shown().run, self.predictions.postprocessing

    # --- helpers -------------------------------------------------------------------------------------

    def _recolor(self) -> None:
        project = self.session.project
        for layer in (self.annotation_layer, self.prediction_layer):
            if layer is not None and project is not None:
                layer.colormap = layers.colormap(project.classes)

    def _clear(self) -> None:
        """Another project: its layers come, those of the last one go; the user's own scans stay."""
        for layer in (self.annotation_layer, self.prediction_layer, self._own):
            self._remove(layer)
        self._remove(layers.find(self.viewer.layers, layers.SIMILARITY))
        for layer in self._scan_layers():
            layers.entry_of(layer)["scan"] = ""

    def _remove(self, layer: Layer | None) -> None:
        if layer is not None and layer in self.viewer.layers:
            layer.locked = False
            self.viewer.layers.remove(layer)

    def remember(self) -> None:
        """Keep scan and slice for the next time."""
        place, project = self.slice_on_screen(), self.session.project
        if place and project:
            slices = project.view_state.get("slices", {})
            self.session.remember(slices={**slices, self.session.scan: list(place)})
