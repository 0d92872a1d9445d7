"""Predicted steps, time and memory of a training, cached per project.

profiling.py measures them on a few steps of the training itself. The cache in the project saves the viewer
and the command line from measuring the same training twice.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from medssl.core import environment, jobs
from medssl.core.errors import UserError
from medssl.core.jobs import TrainingJob
from medssl.core.json_files import read_json, write_json
from medssl.core.project.locks import change_lock
from medssl.core.project.project import Project

FEW_STEPS = 300
"""Trainings with fewer steps have improved little in all experiments so far."""
MAX_ENTRIES = 50
"""Estimates that the cache of a project holds; the oldest are dropped."""
GIB = 1 << 30


@dataclass(frozen=True)
class Estimate:
    """Time per step and memory of a training.

    A step takes `first_s` seconds in the first `share` (0..1) of the steps and `later_s` seconds afterwards,
    when fine-tuning learns from pseudo-labels or Alice's matcher is trained. At most `aside_s` seconds are
    spent outside of the steps, and at most `aside_share` (0..1) of the time: a short fine-tuning has fewer
    rounds of pseudo-labels.
    """

    first_s: Annotated[float, Meta(gt=0)]
    later_s: Annotated[float, Meta(gt=0)]
    share: float
    aside_s: float
    memory: int
    """Peak memory in bytes: device memory on CUDA, otherwise memory of the engine process."""
    memory_there: int
    """Total memory of the device or machine in bytes; 0 if unknown."""
    device: str
    threads: int
    precision: str
    aside_share: float = 1.0

    def steps(self, seconds: float) -> int:
        """Number of steps in a training of the given duration."""
        step_seconds = seconds - min(self.aside_s, self.aside_share * seconds)
        return int(step_seconds * (self.share / self.first_s + (1 - self.share) / self.later_s))

    def seconds(self, steps: int) -> float:
        """Duration in seconds of a training of the given number of steps."""
        step_seconds = steps * (self.share * self.first_s + (1 - self.share) * self.later_s)
        limit = step_seconds / (1 - self.aside_share) if self.aside_share < 1 else math.inf
        return min(step_seconds + self.aside_s, limit)


def describe(estimate: Estimate, minutes: float | None, steps: int | None = None) -> str:
    """Describe the estimate for the user.

    Args:
        minutes: Time limit of the training; None for no limit.
        steps: Step limit of the training; the limit that is reached first counts.

    Returns:
        One to three sentences, e.g. "About 2,400 steps in 10 min, on CPU with 2 threads in fp32; needs 1.2
        GB."
    """
    seconds = math.inf if minutes is None else 60 * minutes
    count = steps
    if steps is None or estimate.seconds(steps) > seconds:
        count = estimate.steps(seconds)
    else:
        seconds = estimate.seconds(steps)
    assert count is not None
    device = estimate.device.upper()
    if estimate.device == "cpu":
        device += f" with {estimate.threads} thread{'s' if estimate.threads > 1 else ''}"
    text = f"About {_rounded(count):,} steps in {duration(seconds)}, on {device} in {estimate.precision}"
    if estimate.memory:
        text += f"; needs {max(0.1, estimate.memory / GIB):.1f} GB"
    text += "."
    if estimate.memory_there and estimate.memory > estimate.memory_there:
        text += f" Only {estimate.memory_there / GIB:.1f} GB are available: use fewer scans."
    if count < FEW_STEPS:
        text += f" Fewer than {FEW_STEPS} steps: expect little."
    return text


def duration(seconds: float) -> str:
    """Format a duration: "40 s", "2.5 min", "8 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.2g} min" if seconds < 5400 else f"{seconds / 3600:.2g} h"


def _rounded(count: int) -> int:
    """Round to two significant digits: a third would suggest a precision that the estimate has not."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return round(count / unit) * unit


def load(project: Project, job: TrainingJob) -> Estimate | None:
    """Cached estimate of such a training of this project on this machine; None if there is none."""
    fields = _entries(project).get(key(project, job))
    try:
        return None if fields is None else jobs.from_json(Estimate, fields, "the estimate")
    except UserError:
        return None  # written by another version


def save(project: Project, job: TrainingJob, estimate: Estimate) -> None:
    """Cache an estimate in the project.

    Raises:
        UserError: "disk-full", "not-writable", "locked".
    """
    job_key = key(project, job)
    project.need_here()
    with change_lock(project.root):
        other_entries = {name: value for name, value in _entries(project).items() if name != job_key}
        newest = dict(list(other_entries.items())[-(MAX_ENTRIES - 1) :])
        write_json(_file(project), {**newest, job_key: jobs.to_json(estimate)})


def _file(project: Project) -> Path:
    return project.root / "estimates.json"


def _entries(project: Project) -> dict[str, Any]:
    try:
        entries = read_json(_file(project)) if _file(project).exists() else {}
    except UserError:
        return {}  # damaged: the training is measured again
    return entries if isinstance(entries, dict) else {}


def key(project: Project, job: TrainingJob) -> str:
    """Cache key: everything that determines the time of a step and is known without reading the scans.

    The annotations are not part of it, because the time of a step does not depend on them.
    """
    fields = jobs.to_json(job)
    for name in ("project", "minutes", "steps", "seed", "resume", "predict_scans", "with_names"):
        fields.pop(name, None)
    fields["settings"].pop("validation_slice", None)
    scans = [
        "+".join((scan.id, *scan.channel_names[1:])) for scan in project.scans.values() if not scan.held_out
    ]
    return json.dumps([fields, scans, len(project.classes), environment.processor()], sort_keys=True)
