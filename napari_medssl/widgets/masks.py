"""Bring a mask that was made elsewhere into the annotation: from a file, or from a layer that is open."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from medssl.core.errors import UserError
from medssl.core.io.geometry import AXIS_NAMES, Geometry
from medssl.core.io.volume import read_labels
from medssl.core.labels.import_mask import ImportedMask, check_same_grid, import_mask
from medssl.core.project.annotation import Annotation
from napari.layers import Image, Labels
from qtpy.QtWidgets import QCheckBox, QFileDialog, QMenu, QMessageBox, QPushButton

from napari_medssl import layers
from napari_medssl.annotate.edits import Edits
from napari_medssl.error_handling import guarded
from napari_medssl.latest_only_worker import Background
from napari_medssl.workspace import Workspace

OURS = ("annotation", "prediction", "fill")
TIP = "Take labels that were made elsewhere as strokes; what is painted already stays as it is"
Read = Callable[[], np.ndarray]


class ImportMask(QPushButton):
    """A button with a list: a file, or one of the open label layers."""

    def __init__(self, workspace: Workspace, edits: Edits) -> None:
        super().__init__("Import mask")
        self.workspace, self.session, self.edits = workspace, workspace.session, edits
        self._thread = Background(self.session)
        self.setToolTip(TIP)
        self.setMenu(QMenu(self))
        self.menu().aboutToShow.connect(self._list)

    def take_file(self, path: Path, complete_axis: int | None = None) -> None:
        """Bring in a label file. complete_axis: its slices across that axis become complete."""
        scan = self.session.need_scan().geometry
        self._take(path.name, lambda: _from_file(path, scan), complete_axis)

    def take_layer(self, layer: Labels, complete_axis: int | None = None) -> None:
        """Bring in an open layer as it lies over the scan on the screen."""
        scan, shown = self.session.need_scan().geometry, self.workspace.scan_layer
        entry = layers.entry_of(layer).get("geometry")
        if entry:
            check_same_grid(layer.name, Geometry.from_json(entry), scan)
        elif shown is not None:
            _need_same_place(layer, shown)
        self._take(layer.name, lambda: np.array(layer.data), complete_axis)

    def _take(self, name: str, read: Read, complete_axis: int | None) -> None:
        project, scan = self.session.need_project(), self.session.need_scan()
        project.need_writable()
        if self.workspace.annotation_layer is None:
            self.workspace.new_annotation()
        painted = np.array(self.workspace.need_annotation().data)
        annotation, classes = Annotation(painted, self.session.complete), project.classes
        self._thread.ask(
            lambda: iter([import_mask(name, read(), annotation, classes, complete_axis)]),
            lambda brought: self._put(scan.id, name, brought),
        )

    def _put(self, scan: str, name: str, brought: ImportedMask) -> None:
        if scan != self.session.scan:
            return
        for item in brought.classes:
            self.session.set_class(item)
        now = np.asarray(self.workspace.need_annotation().data).reshape(-1)
        free = now[brought.voxels] == 0  # somebody may have painted meanwhile
        self.edits.apply(brought.voxels[free], brought.labels[free], brought.complete)
        new = ", ".join(item.name for item in brought.classes)
        more = f" New classes: {new}." if new else ""
        self.session.tell("info", f"{name} is in the annotation; Ctrl+Z takes it out again.{more}")

    # --- asking --------------------------------------------------------------------------------------

    def _list(self) -> None:
        menu = self.menu()
        menu.clear()
        menu.addAction("From a file…", self._ask_for_file)
        for layer in self.workspace.viewer.layers:
            if isinstance(layer, Labels) and layers.entry_of(layer).get("role") not in OURS:
                menu.addAction(f"From the layer {layer.name}", partial(self._ask, layer.name, layer))

    def _ask_for_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Import a mask")
        if path:
            self._ask(Path(path).name, Path(path))

    def _ask(self, name: str, source: Path | Labels) -> None:
        """Whether its slices are complete is the one thing that a mask does not say."""
        place = self.workspace.slice_on_screen()
        axis = place[0] if place else 0
        question = f"Take {name} into the annotation?"
        box = QMessageBox(QMessageBox.Icon.Question, "Import a mask", question, parent=self)
        box.setStandardButtons(QMessageBox.StandardButton.Ok | QMessageBox.StandardButton.Cancel)
        complete = QCheckBox(f"Its {AXIS_NAMES[axis]} slices are complete: what it leaves out is background")
        box.setCheckBox(complete)
        if box.exec() == QMessageBox.StandardButton.Ok:
            wanted = axis if complete.isChecked() else None
            take = self.take_layer if isinstance(source, Labels) else self.take_file
            guarded(self.session, lambda: take(source, wanted))


def _from_file(path: Path, scan: Geometry) -> np.ndarray:
    volume = read_labels(path)
    check_same_grid(path.name, volume.geometry, scan)
    return volume.array


def _need_same_place(layer: Labels, scan: Image) -> None:
    """A layer of which nothing is known but where it lies on the screen.

    Raises UserError ("other-grid").
    """
    if layer.data.shape == scan.data.shape:
        corners = [(0, 0, 0), *(np.eye(3, dtype=int) * (np.array(scan.data.shape) - 1)).tolist()]
        apart = [np.subtract(layer.data_to_world(at), scan.data_to_world(at)) for at in corners]
        if np.abs(apart).max() <= 0.05 * min(scan.scale):
            return
    raise UserError(
        f"The layer {layer.name} does not lie on the scan's own voxels; import its file instead, or make the "
        "layer on the scan.",
        code="other-grid",
    )
