"""The layers that show the state of the session in the viewer."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
from medssl.core.errors import UserError
from medssl.core.export.files import needs_prediction
from medssl.core.labels.postprocess import Postprocessing
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer

from napari_medssl import layers, navigation
from napari_medssl.annotate.autosave import Autosave
from napari_medssl.annotate.brush_size import BrushSize
from napari_medssl.annotate.tools import Tools
from napari_medssl.annotate.undo import UndoHistory
from napari_medssl.channel_layers import ChannelLayers
from napari_medssl.class_colors import PAINTED, PREDICTED, colormap
from napari_medssl.foreign_layers import ForeignLayers
from napari_medssl.io.scan_loader import ScanLoader
from napari_medssl.model.session import Session
from napari_medssl.predict.predictions import Predictions
from napari_medssl.scan_layers import ScanLayers
from napari_medssl.slice_slider import SliceSlider


class Workspace:
    """The layers of the scan on the screen: scan, prediction, annotation, similarity.

    Layers are identified by their metadata, so that a user may rename, hide or delete them.
    """

    def __init__(self, viewer: ViewerModel, session: Session) -> None:
        self.viewer = viewer
        self.session = session
        self.autosave = Autosave(viewer, session)
        self.undo = UndoHistory(session)
        self.tools, self.brush_size = Tools(viewer, session), BrushSize(viewer, session)
        self.scan_layers = ScanLayers(viewer, session)
        self.scan_loader = ScanLoader(session, lambda scan: self.scan_layers.with_scan(scan) is not None)
        self._hidden: list[Layer] = []
        self.predictions = Predictions(viewer, session)
        self.channels = ChannelLayers(viewer, session, lambda: self.scan_layer)
        self.slider = SliceSlider(viewer, lambda: self.scan_layer)
        self.foreign_layers = ForeignLayers(viewer, session)
        session.scan_leaving.connect(self.leave)
        session.project_changed.connect(self._clear)
        session.scan_removed.connect(self.scan_layers.forget)
        session.scan_changed.connect(self.show_scan)
        session.classes_changed.connect(self._recolor)
        dims, stack = viewer.dims.events, viewer.layers.events
        active = viewer.layers.selection.events.active
        self._emitters = (dims.point, dims.order, dims.ndisplay, stack.inserted, stack.removed, active)
        for emitter in self._emitters:
            emitter.connect(self._on_view)

    def close(self) -> None:
        """Disconnect from the viewer, and lock the annotation: strokes would no longer be saved."""
        if self.annotation_layer is not None:
            self.annotation_layer.editable = False
        self.autosave.close()
        self.slider.close()
        self.channels.close()
        self.foreign_layers.close()
        for emitter in self._emitters:
            emitter.disconnect(self._on_view)

    # --- layers --------------------------------------------------------------------------------------

    @property
    def scan_layer(self) -> Image | None:
        """The image layer of the scan on the screen."""
        return self.scan_layers.shown

    @property
    def front_layer(self) -> Image | None:
        """The channel whose grey values tools take: the first that is visible, or the first of all."""
        front = self.channels.front
        return front[1] if front is not None else None

    @property
    def annotation_layer(self) -> Labels | None:
        """The layer that is painted on."""
        return layers.find(self.viewer.layers, layers.ANNOTATION)

    @property
    def prediction_layer(self) -> Labels | None:
        """The layer of the predicted labels."""
        return self.predictions.layer

    def need_annotation(self) -> Labels:
        """The annotation layer.

        Raises:
            UserError: "no-annotation".
        """
        layer = self.annotation_layer
        if layer is None:
            raise UserError('There is no annotation yet; press "New annotation".', code="no-annotation")
        return layer

    # --- the scan on the screen ----------------------------------------------------------------------

    def leave(self) -> None:
        """Save strokes and view before another scan is opened or the window is closed."""
        self.autosave.flush()
        self.brush_size.save()
        with suppress(UserError):  # a project that is gone must not keep another one from being opened
            self.save_view()

    def show_scan(self) -> None:
        """Show the session's scan with its annotation and its newest prediction."""
        scan = self.session.need_scan()
        layers.remove(self.viewer, self.annotation_layer)
        layers.remove(self.viewer, layers.find(self.viewer.layers, layers.SIMILARITY))
        layer = self.scan_layers.show(scan, self.scan_loader.volume)
        self.channels.arrange()
        navigation.show_radiologically(self.viewer)
        if self.session.annotation.labels is not None:
            self._add_annotation(self.session.annotation.labels)
        self.predictions.show_newest()
        self.slider.align()
        self._restore_view(layer)

    def _restore_view(self, layer: Image) -> None:
        view, scan = self.session.need_project().view_state, self.session.need_scan().id
        axis, index = view.slices.get(scan, (0, layer.data.shape[0] // 2))
        navigation.show_slice(self.viewer.dims, layer, axis, min(index, layer.data.shape[axis] - 1))
        self.viewer.reset_view()

    # --- annotation ----------------------------------------------------------------------------------

    def new_annotation(self) -> None:
        """Create the annotation layer if there is none, and select its brush.

        Raises:
            UserError: "no-scan", "read-only".
        """
        self.session.need_project().need_writable()
        self.session.need_scan()
        if self.annotation_layer is None:
            self._add_annotation(self.session.annotation.create())
        self.paint(self.tools.class_id)

    def paint(self, label: int) -> None:
        """Select the brush for a class id, for sure background (255), or the eraser (0).

        Raises:
            UserError: "no-annotation", "read-only".
        """
        layer = self.need_annotation()
        self.session.need_project().need_writable()
        self.viewer.layers.selection.active = layer
        layer.visible = True
        if label:
            layer.selected_label = label
        layer.mode = "paint" if label else "erase"
        self.tools.follow_view()

    def _add_annotation(self, labels: np.ndarray) -> Labels:
        self.session.need_class()
        scan, project = self.session.need_scan(), self.session.need_project()
        layer = layers.annotation_layer(labels, scan.geometry, scan.id, project.classes)
        self.viewer.add_layer(layer)
        for watcher in (self.autosave, self.undo, self.tools, self.brush_size):
            watcher.watch(layer)
        layer.editable = not self.session.read_only
        self.session.messages.end("no-annotation")
        return layer

    def toggle_complete(self) -> None:
        """Mark the slice on the screen complete, or take that back.

        Raises:
            UserError: "no-annotation", "not-2d", "outside", "read-only".
        """
        axis, index = navigation.current_slice(self.viewer.dims, self.need_annotation())
        annotation = self.session.annotation
        annotation.mark(axis, index, (axis, index) not in annotation.complete)

    def go_to(self, axis: int, index: int) -> None:
        """Show a slice (canonical axis, voxel index) of the scan."""
        layer = self.annotation_layer or self.scan_layer
        if layer is not None:
            navigation.show_slice(self.viewer.dims, layer, axis, index)

    def hide_overlays(self, on: bool) -> None:
        """Hide annotation and prediction to look at the scan, or show them again."""
        if on:
            covers = (self.annotation_layer, self.prediction_layer)
            self._hidden += [layer for layer in covers if layer is not None and layer.visible]
        for layer in self._hidden:
            layer.visible = not on
        if not on:
            self._hidden = []

    def slice_on_screen(self) -> tuple[int, int] | None:
        """(canonical axis, voxel index) of the slice on the screen; None in 3D or outside of the scan."""
        return navigation.slice_on_screen(self.viewer.dims, self.annotation_layer or self.scan_layer)

    def _on_view(self, event: object = None) -> None:
        if self.slice_on_screen() is not None:
            self.session.messages.end("not-2d", "outside")
        self.tools.follow_view()
        self.session.view_changed.emit()

    def export_source(self, annotation_only: bool = False) -> tuple[str, str | None, Postprocessing]:
        """What an export writes now: the prediction on the screen and the annotation, which is saved first.

        Args:
            annotation_only: Leave the prediction out.

        Returns:
            Id of the scan, id of the run (None without a prediction, which a scan that is annotated
            everywhere does not need), and the post-processing.

        Raises:
            UserError: "no-scan", "no-prediction".
        """
        scan = self.session.need_scan()
        self.autosave.flush()
        if annotation_only:
            return scan.id, None, Postprocessing()
        shown = self.predictions.shown
        if shown is None and needs_prediction(self.session.need_project().annotation(scan.id)):
            raise UserError(
                "There is no prediction of this scan yet; fine-tune first (step 4), or tick Annotations "
                "only.",
                code="no-prediction",
            )
        return scan.id, shown.run if shown else None, self.predictions.postprocessing

    # --- helpers -------------------------------------------------------------------------------------

    def _recolor(self) -> None:
        project = self.session.project
        for layer, towards in ((self.annotation_layer, PAINTED), (self.prediction_layer, PREDICTED)):
            if layer is not None and project is not None:
                layer.colormap = colormap(project.classes, towards)

    def _clear(self) -> None:
        """Another project: its layers come, those of the last one go; the user's own scans stay."""
        similarity = layers.find(self.viewer.layers, layers.SIMILARITY)
        for layer in (self.annotation_layer, self.prediction_layer, similarity):
            layers.remove(self.viewer, layer)
        self.scan_layers.clear()

    def save_view(self) -> None:
        """Save scan and slice in the project, to restore them next time."""
        position = self.slice_on_screen()
        if position is not None:
            self.session.save_view(position)
