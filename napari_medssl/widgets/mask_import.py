"""Imports labels that were made elsewhere into the annotation, from a file, a folder or an open layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from medssl.core.errors import UserError
from medssl.core.io.labels import LabelVolume, read_labels
from medssl.core.labels.class_ids import ClassIds
from medssl.core.labels.classes import used_ids
from medssl.core.labels.import_mask import Completeness, ImportedMask, import_mask
from napari.layers import Image, Labels
from qtpy.QtWidgets import QFileDialog, QMenu, QPushButton

from napari_medssl import layers
from napari_medssl.annotate.edits import Edits
from napari_medssl.error_handling import catch_errors
from napari_medssl.io.label_layers import label_volume
from napari_medssl.latest_only_worker import LatestOnlyWorker
from napari_medssl.model.messages import LAST_UNDOABLE
from napari_medssl.widgets.mask_preview import Mask, MaskPreview
from napari_medssl.workspace import Workspace

OWN_ROLES = ("annotation", "prediction", "interpolated")
TIP = "Import labels from a file, a folder or a layer as strokes; existing labels are kept"
ReadLabels = Callable[[], LabelVolume]


class MaskImportButton(QPushButton):
    """A button with a menu: a file, a folder, or one of the open label layers."""

    def __init__(self, workspace: Workspace, edits: Edits) -> None:
        super().__init__("Import mask")
        self.workspace, self.session, self.edits = workspace, workspace.session, edits
        self._worker = LatestOnlyWorker(self.session)
        self.preview: MaskPreview | None = None
        """The question that was asked last."""
        self.setToolTip(TIP)
        self._sources = QMenu(self)
        self._sources.aboutToShow.connect(self._list)
        self.setMenu(self._sources)

    def ask_about(self, source: Path | Labels) -> None:
        """Read a mask and ask which of its labels becomes which class, before anything is changed.

        Args:
            source: A label file, a folder of masks, or a layer on the voxel grid of the scan on the screen.

        Raises:
            UserError: The layer is on another grid ("other-grid"), "no-scan", "read-only"; later errors are
                shown as messages.
        """
        project, scan = self.session.need_project(), self.session.need_scan()
        project.need_writable()
        name, read = self._reader(source)

        def read_mask() -> Iterator[Mask]:
            volume = read()
            yield Mask.of(name, volume, project.classes, used_ids(project))

        self._worker.submit(read_mask, lambda mask: self._ask(scan.id, mask))

    def _reader(self, source: Path | Labels) -> tuple[str, ReadLabels]:
        scan = self.session.need_scan().geometry
        if isinstance(source, Path):
            return source.name, lambda: read_labels(source, scan)
        shown = self.workspace.scan_layer
        if shown is not None and not layers.entry_of(source).get("geometry"):
            _need_same_place(source, shown)
        volume = label_volume(source, scan)
        return source.name, lambda: volume

    def _ask(self, scan: str, mask: Mask) -> None:
        if scan != self.session.scan:
            return
        axis, _ = self.workspace.slice_on_screen() or (0, 0)
        self.preview = preview = MaskPreview(mask, axis, self)
        preview.accepted.connect(
            lambda: catch_errors(
                self.session, lambda: self._import(scan, mask, preview.chosen(), axis, preview.completeness())
            )
        )
        preview.open()

    def _import(self, scan: str, mask: Mask, chosen: ClassIds, axis: int, complete: Completeness) -> None:
        if scan != self.session.scan:
            return
        if self.workspace.annotation_layer is None:
            self.workspace.new_annotation()
        now = self.session.annotation.current()
        annotation = replace(now, labels=now.labels.copy())

        def imported() -> Iterator[ImportedMask]:
            yield import_mask(mask.volume.array, annotation, chosen, axis, complete)

        self._worker.submit(imported, lambda result: self._apply(scan, mask, result))

    def _apply(self, scan: str, mask: Mask, imported: ImportedMask) -> None:
        if scan != self.session.scan:
            return
        known = {item.name for item in self.session.need_project().classes}
        now = np.asarray(self.workspace.need_annotation().data).reshape(-1)
        free = now[imported.voxels] == 0  # painting goes on meanwhile
        self.edits.apply(imported.voxels[free], imported.labels[free], imported.complete, imported.classes)
        new = ", ".join(item.name for item in imported.classes if item.name not in known)
        more = f" New classes: {new}." if new else ""
        text = f"Imported {mask.name} into the annotation; Ctrl+Z removes it again.{more}"
        self.session.notify("info", text)
        if mask.volume.notes:
            self.session.notify("warning", f"{mask.name}: {mask.notes}", [LAST_UNDOABLE])

    # --- choosing ------------------------------------------------------------------------------------

    def _list(self) -> None:
        menu = self._sources
        menu.clear()
        menu.addAction("From a file…", self._ask_for_file)
        menu.addAction("From a folder…", self._ask_for_folder)
        for layer in self.workspace.viewer.layers:
            if isinstance(layer, Labels) and layers.entry_of(layer).get("role") not in OWN_ROLES:
                menu.addAction(f"From the layer {layer.name}", partial(self._take, layer))

    def _ask_for_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Import a mask")
        if path:
            self._take(Path(path))

    def _ask_for_folder(self) -> None:
        title = "Import a folder with one mask for each structure, a DICOM-SEG or an RTSTRUCT"
        folder = QFileDialog.getExistingDirectory(self, title)
        if folder:
            self._take(Path(folder))

    def _take(self, source: Path | Labels) -> None:
        catch_errors(self.session, lambda: self.ask_about(source))


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
