"""Step 1: the scans of the project, and which one is on the screen."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path

from medssl.core.errors import UserError
from medssl.core.io.find import ScanFile, find_scans
from medssl.core.io.masks import MASK
from medssl.core.io.volume import READABLE
from medssl.core.project.modality import UNSURE, settle_modalities
from medssl.core.project.project import Scan
from napari.layers import Image
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QFileDialog
from superqt import QElidingLabel
from superqt.utils import GeneratorWorker, create_worker

from napari_medssl import layer_units, layers
from napari_medssl.error_handling import catch_errors
from napari_medssl.io.scan_loader import LoadedScan, read
from napari_medssl.model.session import PROJECT_NAME, Session
from napari_medssl.widgets.components import StepContent, button, column, hint, row
from napari_medssl.widgets.scan_table import ScanTable
from napari_medssl.workspace import Workspace

Added = tuple[Path, Scan | UserError, LoadedScan | None]
"""A file, the scan added from it or the error, and its voxels if it is shown next."""


class Scans(StepContent):
    """Open files, folders and layers; choose the project folder; select a scan."""

    title = "Scans"
    ready = Signal()
    """The scan that was open already has been added: it can be painted on."""

    def __init__(self, session: Session, workspace: Workspace) -> None:
        super().__init__()
        self.session, self.workspace = session, workspace
        self._worker: GeneratorWorker[Added, None, None] | None = None
        self.folder = QElidingLabel()
        self.folder.setElideMode(Qt.TextElideMode.ElideMiddle)
        self.choose = button("Project…", self.choose_project, "Open or create a project folder")
        self.files = button("Open files…", self.open_files, "NIfTI, NRRD, MHA, MGZ or DICOM files", True)
        self.dicom = button("Open folder…", self.open_folder, "A DICOM series, or a folder of scans")
        self.use_open_layers = button(
            "Use open layers", self.use_layers, "Add the image layers that are open"
        )
        self.table = ScanTable(workspace)
        self.progress, self.read_only_note = hint(), hint()
        self.orientation_note = hint("The patient's right is on the left of the screen.")
        self.orientation_note.setToolTip("Radiological convention: viewed from the patient's feet.")
        column(
            self, row(self.folder, self.choose, stretch=0), self.read_only_note, row(self.files, self.dicom),
            self.use_open_layers, self.table, self.progress, self.orientation_note,
        )  # fmt: skip
        session.lock_changed.connect(self._refresh)
        session.scans_changed.connect(self._refresh)
        session.scan_changed.connect(self._refresh)
        session.view_changed.connect(self._refresh_open_layers)
        self._set_progress("")
        self._refresh()

    def summary(self) -> str:
        """How many scans the project has."""
        project = self.session.project
        return "" if project is None else _count(len(project.scans), "scan")

    # --- what the buttons do -------------------------------------------------------------------------

    def open_files(self) -> None:
        """Ask for scan files and add them."""
        patterns = " ".join(f"*{suffix}" for suffix in READABLE)
        paths, _ = QFileDialog.getOpenFileNames(
            self, "Open scans", self._start_folder(), f"Scans ({patterns});;All files (*)"
        )
        self.add([Path(path) for path in paths])

    def open_folder(self) -> None:
        """Ask for a folder (a DICOM series, or many files) and add its scans."""
        folder = QFileDialog.getExistingDirectory(self, "Open a folder of scans", self._start_folder())
        if folder:
            self.add([Path(folder)])

    def choose_project(self) -> None:
        """Ask for a project folder and open it, or create a project there."""
        folder = QFileDialog.getExistingDirectory(self, "Choose a project folder", self._start_folder())
        if folder:
            catch_errors(self.session, lambda: self.open_project(Path(folder)))

    def open_project(self, folder: Path) -> None:
        """Open a project, or create one; its last scan is read in a thread.

        Raises:
            UserError: The folder cannot be a project, or a job is running ("busy").
        """
        scan = self.session.open(folder, show=False)
        if scan is not None:
            self.workspace.scan_loader.open(scan)

    def use_layers(self) -> None:
        """Add the image layers that are open; a layer without a file is saved into the project first."""
        catch_errors(self.session, lambda: self.add(self._files_of_layers(), on_screen=True))

    def add(self, paths: list[Path], on_screen: bool = False) -> None:
        """Add scans in a thread, one after the other, and show the first new one.

        Without an open project, one is created (or opened) beside the first scan.

        Args:
            paths: Scan files and folders.
            on_screen: Whether layers show the scans already; painting starts at once then.
        """
        if paths and self._worker is None:
            catch_errors(self.session, lambda: self._add(paths, on_screen))

    def _add(self, paths: list[Path], on_screen: bool) -> None:
        result = find_scans(paths)
        scans = result.scans
        self._last_scan: str | None = None
        if self.session.project is None:
            self._last_scan = self.session.open(scans[0].path.parent / PROJECT_NAME, show=False)
        if result.left_out:
            self.session.notify("info", f"Left out: {'; '.join(result.left_out)}.")
        self._set_progress(f"Reading {_count(len(scans), 'scan')}…")
        self._worker = worker = create_worker(
            self._read_all,
            scans,
            on_screen,
            _start_thread=False,
            _connect={"yielded": self._on_read, "finished": lambda: self._on_all_read(on_screen)},
        )
        self._shown: str | None = None
        self._remarks: list[str] = []
        worker.start()

    def _read_all(self, scans: Sequence[ScanFile], on_screen: bool) -> Generator[Added, None, None]:
        """Runs in a thread: uses the project folder only, neither session nor viewer."""
        project, first = self.session.need_project(), not on_screen
        former = set(project.scans)
        for scan_file in scans:
            try:
                scan = project.add_scan(scan_file.path, name=scan_file.name, refuse_masks=not scan_file.given)
                yield scan_file.path, scan, read(project, scan) if first else None
                first = False
            except UserError as error:
                yield scan_file.path, error, None
        try:
            settle_modalities(project, set(project.scans) - former)
        except UserError as error:
            yield scans[0].path, error, None

    def _on_read(self, result: Added) -> None:
        path, scan, loaded = result
        if self.session.closed:
            return
        if isinstance(scan, UserError):
            self.session.notify("info" if scan.code == MASK else "error", str(scan))
            return
        self._set_progress(f"Added {path.name}.")
        self._remarks += [f"{path.name}: {note}" for note in scan.notes]
        if self._shown is None:
            self._shown = scan.id
            if loaded is not None:
                self.workspace.scan_loader.cache(self.session.need_project(), scan, loaded)
            catch_errors(self.session, lambda: self.workspace.scan_loader.open(scan.id))
        self.session.scans_changed.emit()

    def _on_all_read(self, on_screen: bool) -> None:
        if self.session.closed:
            return
        self._worker = None
        self._set_progress("")
        self.session.scans_changed.emit()
        self._show_remarks()
        last_scan = self._last_scan
        if self._shown is None and last_scan is not None:
            catch_errors(self.session, lambda: self.workspace.scan_loader.open(last_scan))
        elif self._shown is not None and on_screen:
            self.ready.emit()

    def _show_remarks(self) -> None:
        """Say what was tolerated in the new files, and which scans have an uncertain modality."""
        if self._remarks:
            more = _count(len(self._remarks) - 1, "more remark") + " on others in the table."
            self.session.notify("warning", self._remarks[0] + f" ({more})" * (len(self._remarks) > 1))
        scans = self.session.project.scans.values() if self.session.project else ()
        uncertain = [scan for scan in scans if scan.modality_source == UNSURE]
        if uncertain:
            first, more = uncertain[0], f" and {len(uncertain) - 1} more" * (len(uncertain) > 1)
            self.session.notify(
                "warning",
                f"{first.id}{more} may be CT or MR by the grey values and is taken as "
                f"{first.modality.upper()}; right-click in the table to change it.",
            )

    # --- what it shows -------------------------------------------------------------------------------

    def _refresh(self) -> None:
        project = self.session.project
        root = project.root.resolve() if project else None
        self.folder.setText(f"{root.parent.name}/{root.name}" if root else "No project yet")
        self.folder.setToolTip(f"Scans, annotations, weights, predictions are saved in {root or 'a folder'}")
        self.read_only_note.setText(self.session.read_only)
        self.read_only_note.setVisible(bool(self.session.read_only))
        self._set_progress(self.progress.text())
        scans = project.scans if project else {}
        self.table.setVisible(bool(scans))
        self.orientation_note.setVisible(bool(scans))
        self._refresh_open_layers()

    def _refresh_open_layers(self) -> None:
        count = len(self._open_layers())
        self.use_open_layers.setVisible(bool(count))
        self.use_open_layers.setText(f"Use {_count(count, 'open layer')}")
        self.use_open_layers.setProperty("primary", True)

    def _open_layers(self) -> list[Image]:
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
        for layer in self._open_layers():
            path = layers.file_of(layer)
            if path is None or not path.exists():
                if self.session.project is None:
                    self.session.open(Path.home() / PROJECT_NAME)
                path = layers.save_image(layer, self.session.need_project().make_folder("from layers"))
                if note := layer_units.assumption(layer_units.attributes_of(layer)):
                    self.session.notify("warning", note)
                layers.remember_file(layer, path)
            paths.append(path)
        return paths

    def _set_progress(self, text: str) -> None:
        self.progress.setText(text)
        self.progress.setVisible(bool(text))
        idle = self._worker is None or not text
        self.choose.setEnabled(idle)
        for widget in (self.files, self.dicom, self.use_open_layers):
            widget.setEnabled(idle and not self.session.read_only)

    def _start_folder(self) -> str:
        project = self.session.project
        return str(project.root.parent if project else Path.home())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
