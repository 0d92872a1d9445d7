"""What a training will come to: how many steps in its time, how much memory, on what; in words, and kept.

Measured by profiling.py, which takes a few steps of the very training. Kept in the project, so that neither
the viewer nor the command line measures the same twice.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl.core import environment, jobs
from medssl.core.errors import UserError
from medssl.core.files import read_json, write_json
from medssl.core.jobs import TrainingJob
from medssl.core.project.project import Project

FEW_STEPS = 300
"""Fewer than these have taught little, whatever was trained so far."""
MOST_KEPT = 50
GIB = 1 << 30


@dataclass(frozen=True)
class Estimate:
    """How long a step takes and what it needs.

    A step takes `first_s` seconds in the first `share` of the training and `later_s` in what follows (once
    fine-tuning learns from its own guesses, or Alice's matcher is trained); `aside_s` of the time is no step.
    """

    first_s: float
    later_s: float
    share: float
    aside_s: float
    memory: int
    """Bytes: of a CUDA device its own memory, else all that the engine's process needs."""
    memory_there: int
    """Bytes that the device or machine has in all; 0 where that is not known."""
    device: str
    threads: int
    precision: str

    def steps(self, seconds: float) -> int:
        """How many steps there are in so many seconds of training."""
        for_steps = max(0.0, seconds - self.aside_s)
        return int(for_steps * (self.share / self.first_s + (1 - self.share) / self.later_s))

    def seconds(self, steps: int) -> float:
        """How long so many steps take."""
        return self.aside_s + steps * (self.share * self.first_s + (1 - self.share) * self.later_s)


def in_words(estimate: Estimate, minutes: float | None, steps: int | None = None) -> str:
    """The estimate for so many minutes or steps, whichever are over first, as a sentence or two."""
    seconds = math.inf if minutes is None else 60 * minutes
    count = steps
    if steps is None or estimate.seconds(steps) > seconds:
        count = estimate.steps(seconds)
    else:
        seconds = estimate.seconds(steps)
    assert count is not None
    where = estimate.device.upper()
    if estimate.device == "cpu":
        where += f" with {estimate.threads} thread{'s' if estimate.threads > 1 else ''}"
    said = f"About {_rounded(count):,} steps in {duration(seconds)}, on {where} in {estimate.precision}"
    if estimate.memory:
        said += f"; needs {max(0.1, estimate.memory / GIB):.1f} GB"
    said += "."
    if estimate.memory_there and estimate.memory > estimate.memory_there:
        said += f" There are only {estimate.memory_there / GIB:.1f} GB: take fewer scans."
    if count < FEW_STEPS:
        said += f" Fewer than {FEW_STEPS} steps: expect little."
    return said


def duration(seconds: float) -> str:
    """40 s, 2.5 min, 8 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.2g} min" if seconds < 5400 else f"{seconds / 3600:.2g} h"


def _rounded(count: int) -> int:
    """Two digits: the next one would promise too much."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return round(count / unit) * unit


def known(project: Project, job: TrainingJob) -> Estimate | None:
    """What was measured before for such a training of this project on this machine, or None."""
    found = _kept(project).get(key(project, job))
    try:
        return None if found is None else jobs.from_json(Estimate, found, "the estimate")
    except UserError:
        return None  # of another version


def keep(project: Project, job: TrainingJob, estimate: Estimate) -> None:
    """Remember it in the project. Raises UserError ("disk-full", "not-writable")."""
    own = key(project, job)
    others = {name: value for name, value in _kept(project).items() if name != own}
    newest = dict(list(others.items())[-(MOST_KEPT - 1) :])
    write_json(_file(project), {**newest, own: jobs.to_json(estimate)})


def _file(project: Project) -> Path:
    return project.root / "estimates.json"


def _kept(project: Project) -> dict[str, Any]:
    try:
        kept = read_json(_file(project)) if _file(project).exists() else {}
    except UserError:
        return {}  # damaged: it is measured again
    return kept if isinstance(kept, dict) else {}


def key(project: Project, job: TrainingJob) -> str:
    """All that the time of a step follows from, as far as a viewer can ask it without reading every scan.

    What is painted is left out: a step takes as long whatever that is.
    """
    fields = jobs.to_json(job)
    for name in ("project", "minutes", "steps", "seed", "resume", "predict_scans"):
        fields.pop(name, None)
    fields["settings"].pop("validation_slice", None)
    scans = [scan.id for scan in project.scans.values() if not scan.held_out]
    return json.dumps([fields, scans, len(project.classes), environment.processor()], sort_keys=True)
