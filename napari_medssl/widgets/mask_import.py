"""Imports labels that were made elsewhere into the annotation, from a file or from an open layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from medssl.core.errors import UserError
from medssl.core.io.geometry import AXIS_NAMES
from medssl.core.io.labels import LabelVolume, read_labels
from medssl.core.labels.classes import used_ids
from medssl.core.labels.import_mask import ImportedMask, import_mask
from napari.layers import Image, Labels
from qtpy.QtWidgets import QCheckBox, QFileDialog, QMenu, QMessageBox, QPushButton

from napari_medssl import layers
from napari_medssl.annotate.edits import Edits
from napari_medssl.error_handling import catch_errors
from napari_medssl.io.label_layers import label_volume
from napari_medssl.latest_only_worker import LatestOnlyWorker
from napari_medssl.workspace import Workspace

OWN_ROLES = ("annotation", "prediction", "interpolated")
TIP = "Import labels from a file or layer as strokes; existing labels are kept"
ReadLabels = Callable[[], LabelVolume]


class MaskImportButton(QPushButton):
    """A button with a menu: a file, or one of the open label layers."""

    def __init__(self, workspace: Workspace, edits: Edits) -> None:
        super().__init__("Import mask")
        self.workspace, self.session, self.edits = workspace, workspace.session, edits
        self._worker = LatestOnlyWorker(self.session)
        self.setToolTip(TIP)
        self._sources = QMenu(self)
        self._sources.aboutToShow.connect(self._list)
        self.setMenu(self._sources)

    def take_file(self, path: Path, complete_axis: int | None = None) -> None:
        """Import a label file.

        Args:
            path: The file.
            complete_axis: Canonical axis across which its slices become complete; None for no axis.

        Raises:
            UserError: "no-scan", "read-only"; later errors are shown as messages.
        """
        scan = self.session.need_scan().geometry
        self._take(path.name, lambda: read_labels(path, scan), complete_axis)

    def take_layer(self, layer: Labels, complete_axis: int | None = None) -> None:
        """Import an open label layer.

        Args:
            layer: A layer on the voxel grid of the scan on the screen.
            complete_axis: Canonical axis across which its slices become complete; None for no axis.

        Raises:
            UserError: The layer is on another grid ("other-grid"), "no-scan", "read-only".
        """
        shown = self.workspace.scan_layer
        if shown is not None and not layers.entry_of(layer).get("geometry"):
            _need_same_place(layer, shown)
        volume = label_volume(layer, self.session.need_scan().geometry)
        self._take(layer.name, lambda: volume, complete_axis)

    def _take(self, name: str, read: ReadLabels, complete_axis: int | None) -> None:
        project, scan = self.session.need_project(), self.session.need_scan()
        project.need_writable()
        if self.workspace.annotation_layer is None:
            self.workspace.new_annotation()
        now, classes = self.session.annotation.current(), project.classes
        annotation = replace(now, labels=now.labels.copy())

        def imported() -> Iterator[tuple[ImportedMask, tuple[str, ...]]]:
            mask = read()
            used, table = used_ids(project), mask.table
            yield import_mask(name, mask.array, annotation, classes, complete_axis, table, used), mask.notes

        self._worker.submit(imported, lambda result: self._apply(scan.id, name, *result))

    def _apply(self, scan: str, name: str, imported: ImportedMask, notes: tuple[str, ...]) -> None:
        if scan != self.session.scan:
            return
        known = {item.name for item in self.session.need_project().classes}
        for item in imported.classes:
            self.session.set_class(item)
        now = np.asarray(self.workspace.need_annotation().data).reshape(-1)
        free = now[imported.voxels] == 0  # painting goes on meanwhile
        self.edits.apply(imported.voxels[free], imported.labels[free], imported.complete)
        new = ", ".join(item.name for item in imported.classes if item.name not in known)
        more = f" New classes: {new}." if new else ""
        done = "".join(f" {note[:1].upper()}{note[1:]}." for note in notes)
        self.session.notify(
            "info", f"Imported {name} into the annotation; Ctrl+Z removes it again.{more}{done}"
        )

    # --- asking --------------------------------------------------------------------------------------

    def _list(self) -> None:
        menu = self._sources
        menu.clear()
        menu.addAction("From a file…", self._ask_for_file)
        for layer in self.workspace.viewer.layers:
            if isinstance(layer, Labels) and layers.entry_of(layer).get("role") not in OWN_ROLES:
                menu.addAction(f"From the layer {layer.name}", partial(self._ask, layer.name, layer))

    def _ask_for_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Import a mask")
        if path:
            self._ask(Path(path).name, Path(path))

    def _ask(self, name: str, source: Path | Labels) -> None:
        """Ask whether the slices of the mask are complete, which no mask file says."""
        position = self.workspace.slice_on_screen()
        axis = position[0] if position else 0
        question = f"Import {name} into the annotation?"
        box = QMessageBox(QMessageBox.Icon.Question, "Import a mask", question, parent=self)
        box.setStandardButtons(QMessageBox.StandardButton.Ok | QMessageBox.StandardButton.Cancel)
        complete = QCheckBox(f"Mark its {AXIS_NAMES[axis]} slices complete: unlabelled voxels are background")
        box.setCheckBox(complete)
        if box.exec() == QMessageBox.StandardButton.Ok:
            complete_axis = axis if complete.isChecked() else None
            take = self.take_layer if isinstance(source, Labels) else self.take_file
            catch_errors(self.session, lambda: take(source, complete_axis))


def _need_same_place(layer: Labels, scan: Image) -> None:
    """Check that a layer without a known geometry covers the voxels of the scan.

    Raises:
        UserError: It does not ("other-grid").
    """
    if layer.data.shape == scan.data.shape:
        corners = [(0, 0, 0), *(np.eye(3, dtype=int) * (np.array(scan.data.shape) - 1)).tolist()]
        distances = [
            np.subtract(layer.data_to_world(corner), scan.data_to_world(corner)) for corner in corners
        ]
        if np.abs(distances).max() <= 0.05 * min(scan.scale):
            return
    raise UserError(
        f"The layer {layer.name} is not on the voxel grid of the scan; import its file instead.",
        code="other-grid",
    )
