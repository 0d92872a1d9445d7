"""Segmentations leave the viewer: the scan on the screen as a file, or all scans into a folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from medssl.core.export.files import DICOM_SEG, export_scan, file_name
from medssl.core.jobs import ExportJob
from medssl.core.labels.postprocess import Postprocessing
from medssl.core.project.project import Project
from qtpy.QtWidgets import QFileDialog, QMenu, QWidget
from superqt.utils import create_worker

from napari_medssl.engine.child_process import Jobs
from napari_medssl.error_handling import guarded
from napari_medssl.model.session import Session
from napari_medssl.widgets.parts import JobPanel, button, column, row
from napari_medssl.workspace import Workspace

FORMATS = {"NIfTI": ".nii.gz", "NRRD": ".nrrd", "MetaImage": ".mha", "DICOM-SEG": DICOM_SEG}


class Export(QWidget):
    """Two buttons; `panel`, for the step to lay out, is the progress of what the second one started."""

    kind = "export"

    def __init__(self, session: Session, workspace: Workspace, jobs: Jobs) -> None:
        super().__init__()
        self.session, self.workspace, self.jobs = session, workspace, jobs
        self._worker = None
        self.one = button(
            "Export…",
            self.save,
            "Write this scan's segmentation on the grid of its file: your strokes where you painted, the "
            "prediction elsewhere. The name's ending says how: .nii.gz, .nrrd, .mha, or .dcm for DICOM-SEG",
        )
        self.every = button(
            "Export all",
            lambda: None,
            "Write the segmentations of all scans of the project and a table of volumes into a folder; scans "
            "without a prediction are predicted first",
        )
        self.menu = QMenu(self.every)
        for name, ending in FORMATS.items():
            action = self.menu.addAction(f"{name} ({ending})…")
            action.triggered.connect(lambda _=False, ending=ending: self.save_all(ending))
        self.every.setMenu(self.menu)
        self.panel = JobPanel(session, self.kind, jobs.stop, curve=False)
        column(self, row(self.one, self.every)).setContentsMargins(0, 0, 0, 0)
        session.job_changed.connect(self.refresh)
        self.refresh()

    def save(self) -> None:
        """Ask for a file and write the scan on the screen."""
        scan = guarded(self.session, self.session.need_scan)
        if scan is None:
            return
        start = Path(scan.source).parent / file_name(scan.id, ".nii.gz")
        filters = ";;".join(f"{name} (*{ending})" for name, ending in FORMATS.items())
        path, _ = QFileDialog.getSaveFileName(self, "Export the segmentation", str(start), filters)
        if path:
            guarded(self.session, lambda: self._save(Path(path)))

    def _save(self, path: Path) -> None:
        scan, run, postprocessing = self.workspace.to_export()
        self._worker = create_worker(
            _written,
            self.session.need_project(),
            scan,
            run,
            path,
            postprocessing,
            _start_thread=False,
            _connect={"returned": self._on_saved},
        )
        self._worker.start()
        self.refresh()

    def _on_saved(self, result: tuple[Path, Exception | None]) -> None:
        if self.session.closed:
            return
        self._worker = None
        self.refresh()
        guarded(self.session, lambda: self._tell(*result))

    def _tell(self, path: Path, error: Exception | None) -> None:
        if error is not None:
            raise error
        self.session.tell("info", f"Saved {path.name}.")

    def save_all(self, ending: str) -> None:
        """Ask for a folder and let the engine write all scans there."""
        folder = QFileDialog.getExistingDirectory(
            self, "Export all scans into a folder", self._start_folder()
        )
        if folder:
            guarded(self.session, lambda: self._save_all(Path(folder), ending))

    def _save_all(self, folder: Path, ending: str) -> None:
        _, run, postprocessing = self.workspace.to_export()
        project, how = str(self.session.need_project().root), asdict(postprocessing)
        self.jobs.start(ExportJob(project=project, folder=str(folder), ending=ending, weights=run, **how))

    def refresh(self) -> None:
        """A button is free while nothing of its own runs."""
        self.one.setEnabled(self._worker is None)
        self.every.setEnabled(self.session.idle)

    def _start_folder(self) -> str:
        project = self.session.project
        return str(project.root.parent if project else Path.home())


def _written(
    project: Project, scan: str, run: str, path: Path, postprocessing: Postprocessing
) -> tuple[Path, Exception | None]:
    """In a thread: reads the project folder and writes the file; errors are told in the viewer's own."""
    try:
        export_scan(project, scan, run, path, postprocessing)
    except Exception as error:
        return path, error
    return path, None
