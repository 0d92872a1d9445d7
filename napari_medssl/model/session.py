"""State of the session: the open project, the scan on the screen, the running job. No Qt, no napari.

The panels of the dock read it and listen to its signals; they do not know each other.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from medssl.core import events
from medssl.core.errors import UserError
from medssl.core.features.similarity import has_features, open_features
from medssl.core.jobs import TRAININGS
from medssl.core.labels.classes import rename_class
from medssl.core.palette import class_color
from medssl.core.project.damage import survey
from medssl.core.project.project import LabelClass, Project, Run, Scan, ViewState
from psygnal import Signal

from napari_medssl.model.annotation_model import AnnotationModel
from napari_medssl.model.job_state import JobState
from napari_medssl.model.messages import LAST_UNDOABLE, ON_SCREEN, Messages
from napari_medssl.model.project_place import place_in

FIRST_CLASS = LabelClass(id=1, name="Structure", color=class_color(1))


class Session:
    """State of one viewer's project.

    Methods that touch files raise UserError and then change nothing.
    """

    project_changed = Signal()
    lock_changed = Signal()
    """Whether this window may write to the project has become known."""
    scans_changed = Signal()
    scan_removed = Signal(str)
    """(scan): it is no longer in the project; whoever remembers it forgets it."""
    run_deleted = Signal(str)
    """(run): it is no longer in the project, nor is what it predicted."""
    scan_leaving = Signal()
    """Emitted before the scan or project changes: strokes are saved now."""
    scan_changed = Signal()
    classes_changed = Signal()
    runs_changed = Signal()
    job_changed = Signal()
    metric = Signal(object)
    predicted = Signal(str, str)
    """(scan, run): a prediction has been saved."""
    suggested = Signal(object)
    """Slices suggested for annotation (medssl.tasks.active_learning.suggest)."""
    view_changed = Signal()
    """Another slice is on the screen, or a layer was added, removed or selected."""
    message = Signal(str, str)
    """("info" | "warning" | "error", one sentence)."""

    def __init__(self) -> None:
        self.closed = False
        self.project: Project | None = None
        self.scan: str | None = None
        self.annotation = AnnotationModel()
        """Of the scan on the screen."""
        self.messages = Messages()
        """What was said and is still true."""
        self.job = JobState()
        self.annotated: set[str] = set()
        """Ids of scans with strokes or complete slices."""
        self.damaged: frozenset[str] = frozenset()
        """Ids of scans whose annotation was named as damaged when the project was opened."""
        self._runs: list[Run] = []
        self.annotation.written.connect(self._on_annotation_written)

    def notify(self, severity: str, text: str, about: Iterable[Hashable] = (), job: str = "") -> None:
        """Show a message to the user.

        Args:
            severity: "info" confirms what was done, and vanishes by itself. What was left out, assumed or not
                possible is a "warning", what failed an "error"; both stay until they are no longer true.
            text: One sentence.
            about: What ends it, besides the next attempt in its step (model/messages.py).
            job: Kind of the job that it is about, in whose step it stays; empty for the open step.
        """
        self.message.emit(severity, text)
        if text != self.read_only:  # which the window shows all the time
            self.messages.tell(severity, text, about, job)

    def close(self) -> None:
        """Disconnect all listeners: the dock is closed."""
        self.closed = True
        for owner in (self, self.annotation, self.messages):
            for name, signal in vars(type(owner)).items():
                if isinstance(signal, Signal):
                    getattr(owner, name).disconnect()

    # --- the project ---------------------------------------------------------------------------------

    def open(self, folder: Path, show: bool = True) -> str | None:
        """Open the project in a folder, or inside it, or create one there, see `place_in`.

        Args:
            folder: The project folder, a folder that contains one, or where to create one.
            show: Select the scan that was on the screen last.

        Returns:
            Id of the scan that was on the screen last; None without scans that can be annotated.

        Raises:
            UserError: A job is running ("busy"), or the project cannot be read or created.
        """
        if self.job.running:
            raise UserError("A job of this project is still running; stop it first.", code="busy")
        project = Project.create(place_in(Path(folder)), (FIRST_CLASS,), or_open=True)
        self.scan_leaving.emit()
        self.messages.clear()
        self.project, self.scan = project, None
        self.annotation.close()
        self.job = JobState()
        # Labels take milliseconds each: they are read in a thread, which names those that are damaged
        # (scan_summaries.py).
        state = survey(project, quick=True)
        self.damaged = frozenset(state.damaged)
        self.annotated = {scan for scan in state.annotated if not project.scans[scan].held_out}
        self._runs = list(state.runs)
        # project_changed comes first: it decides whether the project is read-only.
        for signal in (self.project_changed, self.runs_changed, self.classes_changed, self.scans_changed):
            signal.emit()
        self.job_changed.emit()
        for damaged, error in state.damaged.items():
            self.notify("warning", str(error), [damaged])
        for error in state.damaged_runs:
            self.notify("warning", str(error))
        readable = [scan for scan in project.scans if scan not in state.damaged]
        last = project.view_state.scan
        scan = last if last in readable else next(iter(readable), None)
        if scan is not None and show:
            self.select(scan)
        return scan

    def forget(self, scan: str) -> None:
        """Say that a scan which is not on the screen was removed from the project."""
        self.annotated.discard(scan)
        self.messages.end(scan)
        self.scan_removed.emit(scan)
        self.reload_runs()
        self.scans_changed.emit()

    def refresh_annotated(self) -> None:
        """Read again which scans are annotated and take part in training."""
        self.annotated = set(self.need_project().annotated())

    def need_project(self) -> Project:
        """The open project.

        Raises:
            UserError: "no-project".
        """
        if self.project is None:
            raise UserError("No project is open yet; open a scan in step 1.", code="no-project")
        return self.project

    @property
    def read_only(self) -> str:
        """Why the project is read-only, as a message; empty if it may be changed."""
        return self.project.read_only if self.project is not None else ""

    @property
    def idle(self) -> bool:
        """Whether a job may be started."""
        return not self.job.running and not self.read_only

    def need_scan(self) -> Scan:
        """The scan on the screen.

        Raises:
            UserError: "no-project", "no-scan".
        """
        project = self.need_project()
        if self.scan is None:
            raise UserError("No scan is open yet; open one in step 1.", code="no-scan")
        return project.scan(self.scan)

    def select(self, scan: str) -> None:
        """Make a scan the current one and load its annotation.

        Raises:
            UserError: Strokes of the previous scan cannot be saved, or the annotation cannot be read.
        """
        project = self.need_project()
        self.scan_leaving.emit()  # saves strokes, which are then read again where it is the same scan
        project.refresh()  # the table then shows scans that another process has added
        if scan not in project.scans:  # another process has removed it
            self.scans_changed.emit()
        self.annotation.open(project, scan)
        self.scan = scan
        self.messages.end("no-scan", "no-project", ON_SCREEN, LAST_UNDOABLE)
        self.scan_changed.emit()
        self.annotation.changed.emit()

    def save_view(self, position: tuple[int, int]) -> None:
        """Save the scan and its slice on the screen in the project, to restore them next time.

        Args:
            position: (canonical axis, voxel index) of the slice.
        """
        if self.project is not None and self.scan is not None and not self.read_only:
            slices = {**self.project.view_state.slices, self.scan: position}
            state = ViewState(self.scan, slices)
            if state != self.project.view_state:
                self.project.save_view_state(state)

    # --- classes -------------------------------------------------------------------------------------

    def set_class(self, item: LabelClass) -> None:
        """Add a class, or replace the one with the same id."""
        project = self.need_project()
        project.change_classes(lambda known: [*{**{x.id: x for x in known}, item.id: item}.values()])
        self.classes_changed.emit()

    def need_class(self) -> None:
        """Add a class if there is none: a project created on the command line may have none."""
        if not self.need_project().classes:
            self.set_class(FIRST_CLASS)

    def rename_class(self, item: LabelClass, name: str) -> None:
        """Rename a class and say what stays.

        Raises:
            UserError: Those of `classes.rename_class`.
        """
        rename_class(self.need_project(), item.id, name)
        self.classes_changed.emit()
        self.notify(
            "info", f"{item.name} is called {name} now; strokes and predictions keep its id {item.id}."
        )

    def _on_annotation_written(self, scan: str, annotated: bool) -> None:
        self.annotated = (self.annotated - {scan}) | ({scan} if annotated else set())
        if annotated:
            self.messages.end("nothing-annotated")

    # --- runs ----------------------------------------------------------------------------------------

    def runs(self, kind: str) -> list[Run]:
        """Runs of a kind ("pretrain", "finetune") that have weights, newest first."""
        return [run for run in reversed(self._runs) if run.kind == kind and run.checkpoint.exists()]

    @property
    def all_runs(self) -> tuple[Run, ...]:
        """All runs, oldest first, also those without weights."""
        return tuple(self._runs)

    def starting_runs(self) -> list[Run]:
        """Pre-trainings to fine-tune from, newest first, without collapsed ones."""
        return [run for run in self.runs("pretrain") if not run.collapsed]

    def resumable(self, kind: str) -> Run | None:
        """The newest run of a kind if it has a checkpoint and did not run to completion; otherwise None."""
        newest = next(iter(self.runs(kind)), None)
        if newest is None or (self.job.running and self.job.run == newest.id):
            return None
        return None if events.ran_to_completion(newest.folder / "events.jsonl") else newest

    def predictions(self) -> list[Run]:
        """Runs that have segmented the current scan, newest first."""
        if self.project is None or self.scan is None:
            return []
        return [run for run in reversed(self._runs) if self.project.has_prediction(run.id, self.scan)]

    def has_features(self, run: str | None) -> bool:
        """Whether a run has computed features of the current scan."""
        project, scan = self.project, self.scan
        return bool(project is not None and scan and run and has_features(project, scan, run))

    def features_valid(self, run: str | None) -> bool:
        """Whether these features are readable and belong to the current scan and weights."""
        if self.project is None or self.scan is None or run is None or not self.has_features(run):
            return False
        try:
            open_features(self.project, self.scan, run, verify=False)  # the viewer would wait
        except UserError:
            return False
        return True

    def forget_run(self, run: str) -> None:
        """Say that a run was deleted."""
        self.reload_runs()
        self.run_deleted.emit(run)

    def reload_runs(self) -> None:
        """Read the job files of all runs; too slow for every event of a job."""
        self._runs = self.project.runs() if self.project else []
        self.runs_changed.emit()

    # --- the job -------------------------------------------------------------------------------------

    def begin(self, kind: str, host: str = "") -> None:
        """A job was started, on a host or here; the engine has not confirmed it yet."""
        self.messages.end(kind)
        phase = f"Connecting to {host}" if host else "Starting the engine"
        self._job(kind=kind, host=host, running=True, phase=phase, fresh=True)
        self.runs_changed.emit()

    def handle_event(self, event: events.Event) -> None:
        """Update the state by an event of the running job."""
        match event:
            case events.Started():
                self._job(run=event.run, phase="Started", plan=tuple(event.reasons))
            case events.Progress():
                self._job(
                    phase=event.phase, fraction=event.fraction, step=event.step or self.job.step,
                    eta_s=event.eta_s,
                )  # fmt: skip
            case events.Metric():
                self.metric.emit(event)
            case events.Preview():
                self.reload_runs()
                if self.job.kind != "features":
                    self.predicted.emit(event.scan, self.job.run or "")
            case events.Notice():
                self._job(notices=(*self.job.notices, event.text))
            case events.Checkpoint():
                self.reload_runs()
            case events.Done() if self.job.kind == "suggest":
                self.suggested.emit(event.result)

    def stopping(self) -> None:
        """The user has asked the job to stop."""
        unit = "step" if self.job.kind in TRAININGS else "scan"
        self._job(stopping=True, phase=f"Stopping after this {unit}")

    def end(self, outcome: str, text: str) -> None:
        """The engine process has ended.

        Args:
            outcome: "done", "stopped" or "failed".
            text: The error message of a failed job.
        """
        phases = {"done": "Finished", "stopped": "Stopped", "failed": "Failed"}
        fraction = 1.0 if outcome == "done" else self.job.fraction
        self._job(
            running=False, stopping=False, phase=phases[outcome], eta_s=None, fraction=fraction,
            error=text if outcome == "failed" else "",
        )  # fmt: skip
        self.messages.end("busy", "unfinished")
        self.reload_runs()
        if outcome == "failed":
            self.notify("error", text, [self.job.kind], self.job.kind)

    def _job(self, fresh: bool = False, **changes: Any) -> None:
        self.job = replace(JobState() if fresh else self.job, **changes)
        self.job_changed.emit()
