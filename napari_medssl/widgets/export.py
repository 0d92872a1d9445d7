"""Export of segmentations: the scan on the screen as a file, or all scans into a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from medssl.core.export.files import DICOM_SEG, LABEL_MAP, export_scan, file_name
from medssl.core.export.provenance import check_record
from medssl.core.jobs import ExportJob
from medssl.core.labels.postprocess import Postprocessing
from medssl.core.project.project import Project
from qtpy.QtWidgets import QCheckBox, QFileDialog, QMenu, QWidget
from superqt.utils import FunctionWorker, create_worker

from napari_medssl.engine.job_runner import JobRunner
from napari_medssl.error_handling import catch_errors
from napari_medssl.model.reasons import job_blocked, no_scan
from napari_medssl.model.session import Session
from napari_medssl.qt import not_none
from napari_medssl.widgets.components import allow, button, column, row
from napari_medssl.widgets.weights_export import WeightsExport
from napari_medssl.workspace import Workspace

EXPORTING = "This scan is being exported."
FORMATS = {
    "NIfTI": ".nii.gz", "NRRD": ".nrrd", "MetaImage": ".mha", "DICOM-SEG": DICOM_SEG,
    "DICOM Label Map": LABEL_MAP,
}  # fmt: skip


class Export(QWidget):
    """Two buttons and a box that leaves predictions out; the step shows the progress of *Export all*."""

    kind = "export"

    def __init__(
        self,
        session: Session,
        workspace: Workspace,
        jobs: JobRunner,
        settings: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        """Build the buttons.

        Args:
            session: The project.
            workspace: What is exported.
            jobs: Runs the export of all scans.
            settings: The changed values of the step's form; an export uses the device.
        """
        super().__init__()
        self._settings = settings
        self.session, self.workspace, self.jobs = session, workspace, jobs
        self._worker: FunctionWorker[tuple[Path, list[str], Exception | None]] | None = None
        self.one = button(
            "Export…",
            self.save,
            "Export this scan's segmentation on the grid of its file: your labels where you painted, the "
            "prediction elsewhere. Formats by suffix: .nii.gz, .nrrd, .mha, .dcm for DICOM-SEG, or "
            ".labelmap.dcm for a DICOM Label Map",
        )
        self.every = button(
            "Export all",
            lambda: None,
            "Export the segmentations of all scans and a table of volumes into a folder; scans without a "
            "prediction are segmented first",
        )
        self.menu = QMenu(self.every)
        for name, ending in FORMATS.items():
            action = not_none(self.menu.addAction(f"{name} ({ending})…"))
            action.triggered.connect(lambda _=False, ending=ending: self.save_all(ending))
        self.menu.addSeparator()
        self.surfaces = not_none(self.menu.addAction("With surfaces (.stl)"))
        self.surfaces.setCheckable(True)
        self.surfaces.setToolTip("Also write the surface of each class, in mm, in LPS coordinates")
        self.menu.addSeparator()
        self.network = WeightsExport(session, jobs, self._run, self)
        self.network.add_to(self.menu)
        self.menu.setToolTipsVisible(True)
        self.every.setMenu(self.menu)
        self.annotations_only = QCheckBox("Annotations only")
        self.annotations_only.setToolTip("Export what you painted or accepted, without any prediction")
        column(self, row(self.one, self.every), self.annotations_only).setContentsMargins(0, 0, 0, 0)
        for signal in (session.job_changed, session.lock_changed, session.scan_changed):
            signal.connect(self.refresh)
        self.refresh()

    def save(self) -> None:
        """Ask for a file and export the scan on the screen."""
        scan = catch_errors(self.session, self.session.need_scan)
        if scan is None:
            return
        start = Path(scan.source).parent / file_name(scan, ".nii.gz")
        filters = ";;".join(f"{name} (*{ending})" for name, ending in FORMATS.items())
        path, _ = QFileDialog.getSaveFileName(self, "Export the segmentation", str(start), filters)
        if path:
            catch_errors(self.session, lambda: self._save(Path(path)))

    def _save(self, path: Path) -> None:
        scan, run, postprocessing = self.workspace.export_source(self.annotations_only.isChecked())
        self._worker = worker = create_worker(
            _written,
            self.session.need_project(),
            scan,
            run,
            path,
            postprocessing,
            _start_thread=False,
            _connect={"returned": self._on_saved},
        )
        worker.start()
        self.refresh()

    def _on_saved(self, result: tuple[Path, list[str], Exception | None]) -> None:
        if self.session.closed:
            return
        self._worker = None
        self.refresh()
        catch_errors(self.session, lambda: self._tell(*result))

    def _tell(self, path: Path, warnings: list[str], error: Exception | None) -> None:
        if error is not None:
            raise error
        for text in warnings:
            self.session.notify("warning", text)
        self.session.notify("info", f"Saved {path.name}.")

    def save_all(self, ending: str) -> None:
        """Ask for a folder and export all scans into it, as a job of the engine.

        Args:
            ending: Suffix of the files, or DICOM_SEG.
        """
        folder = QFileDialog.getExistingDirectory(
            self, "Export all scans into a folder", self._start_folder()
        )
        if folder:
            catch_errors(self.session, lambda: self._save_all(Path(folder), ending))

    def _save_all(self, folder: Path, ending: str) -> None:
        self.workspace.autosave.flush()
        run = None if self.annotations_only.isChecked() else self._run()
        project, how = self.session.need_project(), asdict(self.workspace.predictions.postprocessing)
        job = ExportJob(
            str(project.root), folder=str(folder), ending=ending, weights=run,
            stl=self.surfaces.isChecked(), **how,
        )  # fmt: skip
        self.jobs.start(replace(job, device=self._settings().get("device", job.device)))

    def _run(self) -> str | None:
        """The fine-tuning of the prediction on the screen, else the newest."""
        newest = next((run.id for run in self.session.runs("finetune")), None)
        return self.workspace.predictions.shown_run or newest

    def refresh(self) -> None:
        """Disable the buttons while they cannot be used."""
        allow(self.one, EXPORTING if self._worker is not None else no_scan(self.session))
        allow(self.every, job_blocked(self.session))

    def _start_folder(self) -> str:
        project = self.session.project
        return str(project.root.parent if project else Path.home())


def _written(
    project: Project, scan: str, run: str | None, path: Path, postprocessing: Postprocessing
) -> tuple[Path, list[str], Exception | None]:
    """Runs in a thread; warnings and errors are reported in the viewer's."""
    warnings: list[str] = []
    try:
        check_record(path)  # the dialog has asked about the file itself
        export_scan(project, scan, run, path, postprocessing, overwrite=True, notify=warnings.append)
    except Exception as error:
        return path, warnings, error
    return path, warnings, None
