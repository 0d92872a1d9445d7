"""Entries of a menu: the network of a fine-tuning for other programs, as a job of the engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medssl.core.export.portable import ONNX_ENDING, check_portable
from medssl.core.jobs import ExportWeightsJob
from qtpy.QtWidgets import QFileDialog, QMenu, QWidget

from napari_medssl.engine.job_runner import JobRunner
from napari_medssl.error_handling import catch_errors
from napari_medssl.model.reasons import job_blocked
from napari_medssl.model.session import Session
from napari_medssl.qt import not_none
from napari_medssl.widgets.components import allow

NO_NETWORK = "There is no fine-tuned network yet; fine-tune first (step 4)."


class WeightsExport:
    """Asks for a name, and starts the job."""

    kind = "export-weights"

    def __init__(
        self, session: Session, jobs: JobRunner, run_id: Callable[[], str | None], parent: QWidget
    ) -> None:
        """Args:
        session: The state of the viewer.
        jobs: Runs the export.
        run_id: Returns the id of the fine-tuning; None where there is none.
        parent: Owner of the dialog.
        """
        self.session, self.jobs, self._run_id, self._parent = session, jobs, run_id, parent

    def add_to(self, menu: QMenu) -> None:
        """Add the entries to a menu; they are grey while they cannot be used."""
        onnx = not_none(menu.addAction(f"Network as ONNX ({ONNX_ENDING})…", lambda: self.ask(ONNX_ENDING)))
        bundle = not_none(menu.addAction("Network as a MONAI bundle…", lambda: self.ask("")))
        onnx.setToolTip(
            "The network of the prediction, for programs with onnxruntime; without names of scans"
        )
        bundle.setToolTip("A folder that segments scans with MONAI, without medssl; without names of scans")

        def refresh() -> None:
            reason = job_blocked(self.session) or ("" if self._run_id() else NO_NETWORK)
            for action in (onnx, bundle):
                allow(action, reason)

        menu.aboutToShow.connect(refresh)

    def ask(self, ending: str) -> None:
        """Choose a name.

        Args:
            ending: ".onnx", or "" for the folder of a bundle.
        """
        project, run = self.session.project, self._run_id()
        if project is None or run is None:
            return
        start = project.root.parent / f"{run}{ending}"
        # What exists is refused in a sentence, so there is no question whether to replace it.
        path, _ = QFileDialog.getSaveFileName(
            self._parent,
            "Export the network",
            str(start),
            options=QFileDialog.Option.DontConfirmOverwrite,
        )
        if path:
            target = Path(path if path.endswith(ending) else path + ending)
            catch_errors(self.session, lambda: self.save(run, target))

    def save(self, run: str, path: Path) -> None:
        """Start the job.

        Raises:
            UserError: "busy", "read-only", and those of `check_portable`.
        """
        check_portable(path)
        job = ExportWeightsJob(str(self.session.need_project().root), weights=run, path=str(path))
        self.jobs.start(job)
