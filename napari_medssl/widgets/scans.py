"""Step 1: the scans of the project, and which one is on the screen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from medssl.core.errors import UserError
from medssl.core.io.volume import READABLE
from medssl.core.project.project import is_project
from napari.layers import Image
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QFileDialog, QMenu
from superqt import QElidingLabel

from napari_medssl.error_handling import catch_errors
from napari_medssl.io.open_layers import scan_file
from napari_medssl.io.samples import is_sample, make_sample_project, sample_project_place
from napari_medssl.io.scan_adder import ScanAdder, Source, count
from napari_medssl.latest_only_worker import LatestOnlyWorker
from napari_medssl.model.project_place import place_at_home, place_beside, place_in
from napari_medssl.model.recent_projects import RecentProjects
from napari_medssl.model.session import Session
from napari_medssl.widgets.components import StepContent, allow, button, column, hint, row, set_primary
from napari_medssl.widgets.new_project import NewProject
from napari_medssl.widgets.open_layers import OpenLayers
from napari_medssl.widgets.project_size import ProjectSize
from napari_medssl.widgets.recent_projects import add_to_menu
from napari_medssl.widgets.scan_table import ScanTable
from napari_medssl.widgets.volume_choice import VolumeChoice
from napari_medssl.widgets.weights_import import WeightsImport
from napari_medssl.widgets.welcome import MAKING_SAMPLE, SAMPLE_STEPS, Welcome
from napari_medssl.workspace import Workspace

READING = "Scans are being read; wait until all are in the table."


class Scans(StepContent):
    """Open files, folders and layers; choose the project folder; select a scan."""

    title = "Scans"
    ready = Signal()
    """The scan that was open already has been added: it can be painted on."""

    def __init__(self, session: Session, workspace: Workspace) -> None:
        super().__init__()
        self.session, self.workspace = session, workspace
        self.adder = ScanAdder(session, workspace)
        self.recent, self.project_size = RecentProjects(session), ProjectSize(session)
        self.weights_import = WeightsImport(session, self)
        self._sample_worker = LatestOnlyWorker(session)
        self.folder = QElidingLabel()
        self.folder.setElideMode(Qt.TextElideMode.ElideMiddle)
        self.choose = button("Project…", lambda: None, "Open or create a project folder")
        self.choose.setMenu(self._project_menu())
        self.files = button("Open files…", self.open_files, "NIfTI, NRRD, MHA, MGZ or DICOM files", True)
        self.dicom = button("Open folder…", self.open_folder, "A DICOM series, or a folder of scans")
        self.new_project = NewProject(session)
        self.open_layers = OpenLayers(workspace, self.use_layers)
        self.use_open_layers = self.open_layers.use
        self.welcome = Welcome(self.recent, self.open_recent, self.open_sample)
        self.table = ScanTable(workspace)
        self.progress = hint()
        self.orientation_note = hint("The patient's right is on the left of the screen.")
        self.orientation_note.setToolTip("Radiological convention: viewed from the patient's feet.")
        self.sample_note = hint(SAMPLE_STEPS)
        column(
            self, row(self.folder, self.choose, stretch=0), row(self.files, self.dicom),
            self.new_project, self.open_layers, self.welcome, self.table, self.progress,
            self.orientation_note, self.sample_note,
        )  # fmt: skip
        for signal in (session.lock_changed, session.scans_changed, session.scan_changed, self.adder.changed):
            signal.connect(self._refresh)
        self.new_project.changed.connect(self._refresh)
        self.adder.taken_over.connect(self.ready.emit)
        self.volumes = VolumeChoice(self.adder, session, self)
        self._refresh()

    def summary(self) -> str:
        """How many scans the project has."""
        project = self.session.project
        return "" if project is None else count(len(project.scans), "scan")

    # --- what the buttons do -------------------------------------------------------------------------

    def open_files(self) -> None:
        """Ask for scan files and add them."""
        patterns = " ".join(f"*{suffix}" for suffix in READABLE)
        paths, _ = QFileDialog.getOpenFileNames(
            self, "Open scans", self._start_folder(), f"Scans ({patterns});;All files (*)"
        )
        self.add([Path(path) for path in paths], ask=True)

    def open_folder(self) -> None:
        """Ask for a folder (a DICOM series, or many files) and add its scans."""
        folder = QFileDialog.getExistingDirectory(self, "Open a folder of scans", self._start_folder())
        if folder:
            self.add([Path(folder)], ask=True)

    def choose_project(self) -> None:
        """Ask for a project folder and open it, or propose to make a project there."""
        folder = QFileDialog.getExistingDirectory(self, "Choose a project folder", self._start_folder())
        if folder:
            catch_errors(self.session, lambda: self._choose_project(place_in(Path(folder))))

    def _choose_project(self, place: Path) -> None:
        if is_project(place):
            self.open_project(place)
        else:
            self.new_project.ask(place, "", self.open_project)

    def open_recent(self, folder: Path) -> None:
        """Open a project that was open before."""
        catch_errors(self.session, lambda: self._open_recent(folder))

    def _open_recent(self, folder: Path) -> None:
        if not is_project(folder):
            self.recent.refresh()
            raise UserError(f"{folder} is no longer there; open the project where it is now.", code="missing")
        self.open_project(folder)

    def open_sample(self) -> None:
        """Make the sample project, unless it exists, in a thread, and open it."""
        place = sample_project_place()
        made: list[Path] = []

        def make() -> Iterator[Path]:
            make_sample_project(place)
            yield place

        def finish() -> None:
            self._refresh()
            for folder in made:
                self.open_project(folder)

        self._sample_worker.submit(make, made.append, finish)
        self._refresh()

    def open_project(self, folder: Path) -> None:
        """Open a project, or create one; its last scan is read in a thread.

        Raises:
            UserError: The folder cannot be a project, or a job is running ("busy").
        """
        scan = self.session.open(folder, show=False)
        if scan is not None:
            self.workspace.scan_loader.open(scan)

    def open_paths(self, paths: Sequence[Path]) -> None:
        """Open a project, add scans to it, or both.

        Raises:
            UserError: "several-projects", and those of `open_project`.
        """
        projects = [path for path in paths if is_project(path)]
        if len(projects) > 1:
            raise UserError("Only one project can be open in a window; give one.", code="several-projects")
        for project in projects:
            self.open_project(project)
        self.add([path for path in paths if path not in projects], ask=True)

    def use_layers(self, chosen: list[Image]) -> None:
        """Add open layers as scans; a layer without a file is saved into the project first."""
        self._add([Source(scan_file(layer), layer) for layer in chosen], ask=True)

    def add(self, paths: list[Path], ask: bool = False) -> None:
        """Add scans in a thread, one after the other, and show the first new one.

        Without an open project, one is made beside the first scan, or opened if it exists.

        Args:
            paths: Scan files and folders.
            ask: Let the user agree to the place of a new project, or change it.
        """
        if paths and not self.adder.busy:
            self.adder.find(paths, lambda sources: self._add(sources, ask))

    def _add(self, sources: list[Source], ask: bool) -> None:
        if self.session.project is not None:
            self.adder.add(sources)
            return
        file = next((source.file.path.absolute() for source in sources if source.file), None)
        place = place_beside(file) if file else place_at_home()
        is_known = file is not None and place.parent == file.parent and is_project(place)
        if ask and not is_known:
            what = count(len(sources), "scan")
            self.new_project.ask(place, what, lambda agreed: self._add_to(agreed, sources))
        else:
            self._add_to(place, sources)

    def _add_to(self, place: Path, sources: list[Source]) -> None:
        self.adder.add(sources, otherwise=self.session.open(place, show=False))

    # --- what it shows -------------------------------------------------------------------------------

    def _refresh(self) -> None:
        project = self.session.project
        root = project.root.resolve() if project else None
        self.folder.setText(f"{root.parent.name}/{root.name}" if root else "No project yet")
        self.folder.setToolTip(f"Scans, annotations, weights, predictions are saved in {root or 'a folder'}")
        scans = project.scans if project else {}
        self.table.setVisible(bool(scans))
        self.orientation_note.setVisible(bool(scans))
        asks = self.new_project.place is not None
        self.welcome.setVisible(project is None and not asks)
        set_primary(self.files, not asks)
        self.sample_note.setVisible(project is not None and is_sample(project))
        self._refresh_controls()

    def _refresh_controls(self) -> None:
        self.progress.setText(MAKING_SAMPLE if self._sample_worker.busy else self.adder.progress)
        self.progress.setVisible(bool(self.progress.text()))
        busy = self.adder.busy or self._sample_worker.busy
        reading = READING if busy else ""
        for control in (self.choose, self.welcome):
            allow(control, reading)
        for control in (self.files, self.dicom):
            allow(control, reading or self.session.read_only)
        self.open_layers.block(reading or self.session.read_only)

    def _project_menu(self) -> QMenu:
        menu = QMenu(self)
        menu.setToolTipsVisible(True)
        menu.aboutToShow.connect(lambda: self._fill_menu(menu))
        return menu

    def _fill_menu(self, menu: QMenu) -> None:
        menu.clear()
        menu.addAction("Open or create…", self.choose_project)
        menu.addSeparator()
        add_to_menu(menu, self.recent, self.open_recent)
        menu.addSeparator()
        self.weights_import.add_to(menu)
        self.project_size.add_to(menu)

    def _start_folder(self) -> str:
        project = self.session.project
        return str(project.root.parent if project else Path.home())
