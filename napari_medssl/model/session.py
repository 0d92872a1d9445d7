"""What is going on: the open project, the scan on the screen, the running job. No Qt, no napari.

Every panel of the dock reads from here and listens to the signals; none talks to another panel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medssl.core import events
from medssl.core.errors import UserError
from medssl.core.features.similarity import has_features, open_features
from medssl.core.palette import class_color
from medssl.core.project.project import LabelClass, Project, Run, Scan, is_project
from psygnal import Signal

from napari_medssl.model.run_history import came_to_its_end

PROJECT_NAME = "medssl-project"
FIRST_CLASS = LabelClass(id=1, name="Structure", color=class_color(1))
MOST_CLASSES = 254


@dataclass(frozen=True)
class JobState:
    """The running job, or the last one. `phase` and `said` (sentences, the newest last) are for the user."""

    kind: str = ""
    running: bool = False
    stopping: bool = False
    run: str | None = None
    phase: str = ""
    fraction: float = 0.0
    step: int = 0
    eta_s: float | None = None
    said: tuple[str, ...] = ()
    plan: tuple[str, ...] = ()
    """Why the training is what it is, for who wants to know."""


class Session:
    """State of one viewer's project.

    Methods that touch files raise UserError; nothing is changed then.
    """

    project_changed = Signal()
    project_held = Signal()
    """It has become known whether this window may write into the project."""
    scans_changed = Signal()
    scan_leaving = Signal()
    """Before another scan or project takes the place of this one: the last moment to save strokes."""
    scan_changed = Signal()
    classes_changed = Signal()
    annotation_changed = Signal()
    runs_changed = Signal()
    job_changed = Signal()
    metric = Signal(object)
    predicted = Signal(str, str)
    """(scan, run): a prediction has been saved."""
    suggested = Signal(object)
    """What the engine says is worth painting next (medssl.tasks.active_learning.suggest)."""
    view_changed = Signal()
    """Another slice is on the screen, or a layer came or went."""
    said = Signal(str, str)
    """("info" | "warning" | "error", one sentence)."""

    def __init__(self) -> None:
        self.closed = False
        self.project: Project | None = None
        self.scan: str | None = None
        self.complete: tuple[tuple[int, int], ...] = ()
        self.saved = ""
        """How the current annotation stands on the disk, in words."""
        self.job = JobState()
        self.annotated: set[str] = set()
        """Scans that have strokes or complete slices."""
        self._runs: list[Run] = []

    def tell(self, severity: str, text: str) -> None:
        """Show the user one sentence ("info", "warning", "error")."""
        self.said.emit(severity, text)

    def close(self) -> None:
        """Nobody listens any more: the dock is gone."""
        self.closed = True
        for name, signal in vars(type(self)).items():
            if isinstance(signal, Signal):
                getattr(self, name).disconnect()

    # --- the project ---------------------------------------------------------------------------------

    def open(self, folder: Path, show: bool = True) -> str | None:
        """Open the project in `folder`, or the one inside it, or make one there.

        show: select the scan that was on the screen last; its name is returned.
        """
        if self.job.running:
            raise UserError("A job of this project is still running; stop it first.", code="busy")
        folder = Path(folder)
        inside = folder / PROJECT_NAME
        if is_project(folder):
            project = Project.open(folder)
        elif is_project(inside):
            project = Project.open(inside)
        else:
            empty = not folder.exists() or not any(folder.iterdir())
            project = Project.create(folder if empty else inside, classes=(FIRST_CLASS,))
        self.scan_leaving.emit()
        self.project, self.scan, self.complete, self.saved = project, None, (), ""
        self.job = JobState()
        self.count_annotated()
        self._runs = project.runs()
        # First of all others: whether it may be written becomes known by it.
        for signal in (self.project_changed, self.runs_changed, self.classes_changed, self.scans_changed):
            signal.emit()
        self.job_changed.emit()
        last = project.view_state.get("scan")
        scan = last if last in project.scans else next(iter(project.scans), None)
        if scan is not None and show:
            self.select(scan)
        return scan

    def count_annotated(self) -> None:
        """Look anew which scans can be learned from."""
        self.annotated = set(self.need_project().annotated())

    def need_project(self) -> Project:
        """The open project. Raises UserError ("no-project")."""
        if self.project is None:
            raise UserError("No project is open yet; open a scan in step 1.", code="no-project")
        return self.project

    @property
    def read_only(self) -> str:
        """Why the project may only be looked at, a sentence; empty where it may be worked on."""
        return self.project.read_only if self.project is not None else ""

    @property
    def idle(self) -> bool:
        """Whether a job may be started."""
        return not self.job.running and not self.read_only

    def need_scan(self) -> Scan:
        """The scan on the screen. Raises UserError ("no-scan")."""
        project = self.need_project()
        if self.scan is None:
            raise UserError("No scan is open yet; open one in step 1.", code="no-scan")
        return project.scans[self.scan]

    def select(self, scan: str) -> None:
        """Make `scan` the current one and load its annotation's complete slices."""
        project = self.need_project()
        annotation = project.annotation(scan)
        self.scan_leaving.emit()
        self.scan = scan
        self.complete = annotation.complete if annotation else ()
        self.saved = "saved" if annotation else ""
        self.scan_changed.emit()
        self.annotation_changed.emit()

    def remember(self, **view: Any) -> None:
        """Keep where the user is (scan, step, slice), for the next time."""
        if self.project is not None and not self.read_only:
            state = {**self.project.view_state, "scan": self.scan, **view}
            if state != self.project.view_state:
                self.project.save_view_state(state)

    # --- classes and annotation ----------------------------------------------------------------------

    def set_class(self, item: LabelClass) -> None:
        """Change the class with this id, or add it."""
        project = self.need_project()
        known = {other.id: other for other in project.classes}
        project.set_classes(tuple({**known, item.id: item}.values()))
        self.classes_changed.emit()

    def need_class(self) -> None:
        """A project made on the command line may have no class yet; painting needs one."""
        if not self.need_project().classes:
            self.set_class(FIRST_CLASS)

    def add_class(self) -> LabelClass:
        """Add a class with the next free id and a colour of its own."""
        taken = {item.id for item in self.need_project().classes}
        if len(taken) >= MOST_CLASSES:
            raise UserError(f"A project has at most {MOST_CLASSES} classes.", code="too-many")
        number = next(n for n in range(1, MOST_CLASSES + 1) if n not in taken)
        item = LabelClass(id=number, name=f"Structure {number}", color=class_color(number))
        self.set_class(item)
        return item

    def mark(self, axis: int, index: int, complete: bool) -> None:
        """Mark a slice complete (what is not painted in it is background), or take that back."""
        self.need_project().need_writable()
        others = [place for place in self.complete if place != (axis, index)]
        self.complete = tuple(sorted([*others, (axis, index)] if complete else others))
        self.annotation_changed.emit()

    def touch(self) -> None:
        """There are strokes that the disk does not have yet."""
        if self.saved != "saving":
            self.saved = "saving"
            self.annotation_changed.emit()

    # --- runs ----------------------------------------------------------------------------------------

    def runs(self, kind: str) -> list[Run]:
        """Runs of a kind that have weights, newest first."""
        return [run for run in reversed(self._runs) if run.kind == kind and run.checkpoint.exists()]

    def starts(self) -> list[Run]:
        """Pre-trainings to fine-tune from, newest first: what has collapsed is worse than random weights."""
        return [run for run in self.runs("pretrain") if not run.collapsed]

    def resumable(self, kind: str) -> Run | None:
        """The newest run of a kind, if it has a checkpoint and did not come to its end."""
        newest = next(iter(self.runs(kind)), None)
        if newest is None or (self.job.running and self.job.run == newest.id):
            return None
        return None if came_to_its_end(newest.folder) else newest

    def predictions(self) -> list[Run]:
        """Runs that have predicted the current scan, newest first."""
        if self.project is None or self.scan is None:
            return []
        return [run for run in reversed(self._runs) if self.project.has_prediction(run.id, self.scan)]

    def has_features(self, run: str | None) -> bool:
        """Whether a run has computed features of the current scan."""
        project, scan = self.project, self.scan
        return project is not None and scan is not None and bool(run) and has_features(project, scan, run)

    def features_hold(self, run: str | None) -> bool:
        """Whether these features are whole, and of the scan and the weights as they are now."""
        if self.project is None or self.scan is None or run is None or not self.has_features(run):
            return False
        try:
            open_features(self.project, self.scan, run)
        except UserError:
            return False
        return True

    def _look_for_runs(self) -> None:
        """Read the run folders' job files; not at every event of a job."""
        self._runs = self.project.runs() if self.project else []
        self.runs_changed.emit()

    # --- the job -------------------------------------------------------------------------------------

    def begin(self, kind: str) -> None:
        """A job was started; its child has still to say so."""
        self._job(kind=kind, running=True, phase="Starting the engine", fresh=True)
        self.runs_changed.emit()

    def hear(self, event: events.Event) -> None:
        """Take in what the job says."""
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
                self._look_for_runs()
                if self.job.kind != "features":
                    self.predicted.emit(event.scan, self.job.run or "")
            case events.Notice():
                self._job(said=(*self.job.said, event.text))
            case events.Checkpoint():
                self._look_for_runs()
            case events.Done() if self.job.kind == "suggest":
                self.suggested.emit(event.result)

    def stopping(self) -> None:
        """The user asked the job to stop."""
        self._job(stopping=True, phase="Stopping after this step")

    def end(self, outcome: str, text: str) -> None:
        """The job's child is gone: "done", "stopped" or "failed" with a sentence."""
        words = {"done": "Finished", "stopped": "Stopped", "failed": "Failed"}
        fraction = 1.0 if outcome == "done" else self.job.fraction
        self._job(running=False, stopping=False, phase=words[outcome], eta_s=None, fraction=fraction)
        self._look_for_runs()
        if outcome == "failed":
            self.tell("error", text)

    def _job(self, fresh: bool = False, **changes: Any) -> None:
        self.job = replace(JobState() if fresh else self.job, **changes)
        self.job_changed.emit()
