"""Step 1: which scans the project has, and which one is on the screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medssl.core.errors import UserError
from medssl.core.io.volume import READABLE, find_scans
from medssl.core.project.project import Scan
from napari.layers import Image
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QFileDialog, QWidget
from superqt import QElidingLabel
from superqt.utils import create_worker

from napari_medssl import layers
from napari_medssl.error_handling import guarded
from napari_medssl.io.scan_loader import Read, read
from napari_medssl.model.session import PROJECT_NAME, Session
from napari_medssl.widgets.parts import button, column, hint, row
from napari_medssl.widgets.scan_table import ScanTable
from napari_medssl.workspace import Workspace

Added = tuple[Path, Scan | UserError, Read | None]
"""A file, the scan that it became, and, where that is shown next, what it looks like."""


class Scans(QWidget):
    """Open files, folders and layers; choose the project folder; pick a scan."""

    title = "Scans"
    ready = Signal()
    """The scan that was open already is in the project: on to painting."""

    def __init__(self, session: Session, workspace: Workspace) -> None:
        super().__init__()
        self.session, self.workspace = session, workspace
        self._worker = None
        self.folder = QElidingLabel()
        self.folder.setElideMode(Qt.TextElideMode.ElideMiddle)
        self.choose = button(
            "Project…", self.choose_project, "Open another project folder, or make one where you choose"
        )
        self.files = button("Open files…", self.open_files, "NIfTI, NRRD, MHA, MGZ or DICOM files", True)
        self.dicom = button("Open folder…", self.open_folder, "A DICOM series, or a folder full of scans")
        self.adopt = button("Use open layers", self.use_layers, "Take the image layers that are open already")
        self.table = ScanTable(workspace)
        self.busy, self.held = hint(), hint()
        self.sides = hint("The patient's right is on the left of the screen.")
        self.sides.setToolTip("Radiological convention: as if you looked from the patient's feet.")
        column(
            self, row(self.folder, self.choose, stretch=0), self.held, row(self.files, self.dicom),
            self.adopt, self.table, self.busy, self.sides,
        )  # fmt: skip
        session.project_held.connect(self._refresh)
        session.scans_changed.connect(self._refresh)
        session.scan_changed.connect(self._refresh)
        session.view_changed.connect(self._refresh_adopt)
        self._set_busy("")
        self._refresh()

    def summary(self) -> str:
        """For the step's header."""
        project = self.session.project
        return "" if project is None else _count(len(project.scans), "scan")

    # --- what the buttons do -------------------------------------------------------------------------

    def open_files(self) -> None:
        """Ask for scan files and add them."""
        patterns = " ".join(f"*{suffix}" for suffix in (*READABLE, ".dcm"))
        paths, _ = QFileDialog.getOpenFileNames(
            self, "Open scans", self._start_folder(), f"Scans ({patterns});;All files (*)"
        )
        self.add([Path(path) for path in paths])

    def open_folder(self) -> None:
        """Ask for a folder (a DICOM series, or many files) and add what is in it."""
        folder = QFileDialog.getExistingDirectory(self, "Open a folder of scans", self._start_folder())
        if folder:
            self.add([Path(folder)])

    def choose_project(self) -> None:
        """Ask for the project's folder; open the project there or make one."""
        folder = QFileDialog.getExistingDirectory(self, "Choose a project folder", self._start_folder())
        if folder:
            guarded(self.session, lambda: self.open_project(Path(folder)))

    def open_project(self, folder: Path) -> None:
        """Open the project, or make one there; the scan that was on the screen last is read in a thread.

        Raises UserError where the folder cannot be one, or a job of another project runs.
        """
        scan = self.session.open(folder, show=False)
        if scan is not None:
            self.workspace.opening.open(scan)

    def use_layers(self) -> None:
        """Add the image layers that are open; one without a file is first saved into the project."""
        guarded(self.session, lambda: self.add(self._files_of_layers(), on_screen=True))

    def add(self, paths: list[Path], on_screen: bool = False) -> None:
        """Add scans in the background, one after the other, and show the first new one.

        Without a project yet, one is made (or opened again) beside the first scan.
        on_screen: layers show them already, so that the next thing to do is to paint.
        """
        if paths and self._worker is None:
            guarded(self.session, lambda: self._add(paths, on_screen))

    def _add(self, paths: list[Path], on_screen: bool) -> None:
        scans = find_scans(paths)
        self._before: str | None = None
        if self.session.project is None:
            self._before = self.session.open(scans[0].parent / PROJECT_NAME, show=False)
        self._set_busy(f"Reading {_count(len(scans), 'scan')}…")
        self._worker = create_worker(
            self._read_all,
            scans,
            on_screen,
            _start_thread=False,
            _connect={"yielded": self._on_read, "finished": lambda: self._on_all_read(on_screen)},
        )
        self._shown: str | None = None
        self._worker.start()

    def _read_all(self, scans: list[Path], on_screen: bool) -> Iterator[Added]:
        """In a thread: touches the project folder only, neither session nor viewer."""
        project, first = self.session.need_project(), not on_screen
        for path in scans:
            try:
                scan = project.add_scan(path)
                yield path, scan, read(project, scan) if first else None
                first = False
            except UserError as error:
                yield path, error, None

    def _on_read(self, result: Added) -> None:
        path, scan, found = result
        if self.session.closed:
            return
        if isinstance(scan, UserError):
            self.session.tell("error", str(scan))
            return
        self._set_busy(f"{path.name} is in.")
        if self._shown is None:
            self._shown = scan.id
            if found is not None:
                self.workspace.opening.keep(self.session.need_project(), scan, found)
            guarded(self.session, lambda: self.workspace.opening.open(scan.id))
        self.session.scans_changed.emit()

    def _on_all_read(self, on_screen: bool) -> None:
        if self.session.closed:
            return
        self._worker = None
        self._set_busy("")
        self.session.scans_changed.emit()
        if self._shown is None and self._before is not None:
            guarded(self.session, lambda: self.workspace.opening.open(self._before))
        elif self._shown is not None and on_screen:
            self.ready.emit()

    # --- what it shows -------------------------------------------------------------------------------

    def _refresh(self) -> None:
        project = self.session.project
        root = project.root.resolve() if project else None
        self.folder.setText(f"{root.parent.name}/{root.name}" if root else "No project yet")
        self.folder.setToolTip(f"Scans, annotations, weights, predictions are kept in {root or 'a folder'}")
        self.held.setText(self.session.read_only)
        self.held.setVisible(bool(self.session.read_only))
        self._set_busy(self.busy.text())
        scans = project.scans if project else {}
        self.table.setVisible(bool(scans))
        self.sides.setVisible(bool(scans))
        self._refresh_adopt()

    def _refresh_adopt(self) -> None:
        found = len(self._foreign_layers())
        self.adopt.setVisible(bool(found))
        self.adopt.setText(f"Use {_count(found, 'open layer')}")
        self.adopt.setProperty("primary", True)

    def _foreign_layers(self) -> list[Image]:
        return [
            layer
            for layer in self.workspace.viewer.layers
            if isinstance(layer, Image)
            and layer.ndim == 3
            and layers.entry_of(layer).get("role", layers.SCAN) == layers.SCAN
            and not layers.entry_of(layer).get("scan")
        ]

    def _files_of_layers(self) -> list[Path]:
        paths = []
        for layer in self._foreign_layers():
            path = layers.file_of(layer)
            if path is None or not path.exists():
                if self.session.project is None:
                    self.session.open(Path.home() / PROJECT_NAME)
                path = layers.save_image(layer, self.session.need_project().root / "from layers")
                layers.remember_file(layer, path)
            paths.append(path)
        return paths

    def _set_busy(self, text: str) -> None:
        self.busy.setText(text)
        self.busy.setVisible(bool(text))
        free = self._worker is None or not text
        self.choose.setEnabled(free)
        for widget in (self.files, self.dicom, self.adopt):
            widget.setEnabled(free and not self.session.read_only)

    def _start_folder(self) -> str:
        project = self.session.project
        return str(project.root.parent if project else Path.home())


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
