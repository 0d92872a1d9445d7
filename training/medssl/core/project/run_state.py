"""How far a run has come, and what it holds."""

from __future__ import annotations

from dataclasses import dataclass

from medssl.core.errors import UserError
from medssl.core.events import ran_to_completion
from medssl.core.project.elsewhere import elsewhere
from medssl.core.project.locks import TRAINING_FILE, training_lock
from medssl.core.project.project import Project, Run


@dataclass(frozen=True)
class RunState:
    """What is to be said of a run.

    Attributes:
        text: "finished", "stopped", "being trained", "on HOST", "collapsed", "no weights" or "damaged".
        steps: Steps of its checkpoint.
        seconds: Training time of its checkpoint.
        predictions: Number of scans of the project that it has segmented.
    """

    text: str
    steps: int
    seconds: float
    predictions: int


def run_state(project: Project, run: Run) -> RunState:
    """The state of a run, from its files and its lock."""
    predictions = sum(project.prediction_file(run.id, scan).exists() for scan in project.scans)
    try:
        card, place = run.card, elsewhere(run)
    except UserError:
        return RunState("damaged", 0, 0.0, predictions)
    text = f"on {place.host}" if place is not None else _text(run)
    return RunState(text, int(card.get("step", 0)), float(card.get("elapsed_s", 0.0)), predictions)


def _text(run: Run) -> str:
    if is_being_trained(run):
        return "being trained"
    if not run.checkpoint.exists():
        return "no weights"
    if run.collapsed:
        return "collapsed"
    return "finished" if ran_to_completion(run.folder / "events.jsonl") else "stopped"


def is_being_trained(run: Run) -> bool:
    """Whether a process is training a run."""
    try:
        need_not_trained(run)
    except UserError as error:
        return error.code == "locked"
    return False


def need_not_trained(run: Run) -> None:
    """Check that no process is training a run.

    Raises:
        UserError: "locked" if one is, "not-writable".
    """
    if (run.folder / TRAINING_FILE).exists():  # the file stays when its holder ends
        with training_lock(run.folder):
            pass
