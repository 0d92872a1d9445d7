"""Trainings whose every step is noted, in one process or, under torchrun, in several.

`torchrun --nproc-per-node 2 tests/engine/ranked.py PROJECT FOLDER TRAININGS` runs one after another, so that
torch is loaded once. TRAININGS is a JSON list of the arguments of `train`; rank 0 writes what they return to
FOLDER, a file for each.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from medssl.core.events import Metric, Notice
from medssl.core.jobs import PretrainJob, TrainingJob
from medssl.core.project.project import Project
from medssl.nn import distributed
from medssl.nn.models import checkpoint
from medssl.tasks.pretrain.pretrain import Pretraining
from medssl.tasks.training import report
from small import Events, job_of, never, run, stop_after
from torch import Tensor

BATCH = 5
"""Rows of all processes together: of two processes, one has three and the other two."""
SHAPES: dict[str, Any] = {"precision": "fp32", "threads": 1, "sizes": [16, 32]}
STEPS = 6
GRADIENT = "the first gradient"
ROUNDING = 2.0**-24
"""Relative error of a rounded float32."""
SHORT_AT = 3
"""Step in which memory is short."""


def job(kind: str, project: Project, **changes: Any) -> TrainingJob:
    """A training of small steps; see `small.job_of`."""
    if kind == "shapes":
        fields = {"method": kind, "steps": STEPS, "device": "cpu", "settings": {**SHAPES, "batch": BATCH}}
        return PretrainJob(project=str(project.root), **{**fields, **changes})
    settings = {**job_of(kind, project).settings, "batch": BATCH}
    return job_of(kind, project, **{"steps": STEPS, "settings": settings, **changes})


def train(
    kind: str,
    project: Project,
    stop: int | None = None,
    resume: str | None = None,
    error: float = 0.0,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Train, and note every step.

    Args:
        kind: As in `small.job_of`, or "shapes".
        project: The project.
        stop: Stop after so many steps; of two processes only the second is asked to.
        resume: Run to resume.
        error: Relative error that each gradient gets, such as ROUNDING.

    Returns:
        {"run", "steps": scalars of each, "notices"}, and the tensors of the checkpoint with GRADIENT.
    """
    asked = stop is not None and distributed.rank() == distributed.world() - 1
    events, every_s, average = Events(), report.REPORT_EVERY_S, distributed.average_gradients
    gradients: list[Tensor] = []
    noise = torch.Generator().manual_seed(0)

    def average_and_note(parameters: Sequence[Tensor]) -> None:
        average(parameters)
        for each in parameters if error else ():
            if each.grad is not None:
                each.grad *= 1 + error * torch.randn(each.shape, generator=noise)
        if not any(each.any() for each in gradients):  # that of MoCo is 0 at first
            gradients[:] = [each.grad.flatten().clone() for each in parameters if each.grad is not None]

    report.REPORT_EVERY_S, distributed.average_gradients = -1.0, average_and_note
    try:
        result = run(job(kind, project, resume=resume), events, stop_after(stop or 0) if asked else never)
    finally:
        report.REPORT_EVERY_S, distributed.average_gradients = every_s, average
    steps = [event.values for event in events.of(Metric) if "loss" in event.values]
    notices = [event.text for event in events.of(Notice)]
    noted = {"run": result["run"], "steps": steps, "notices": notices}
    tensors, _ = checkpoint.load(project.run(result["run"]).checkpoint)
    return noted, {**tensors, GRADIENT: torch.cat(gradients)}


def be_short_of_memory() -> None:
    """Let a step of rank 1 fail for want of memory, while rank 0 already waits for it."""
    plain, calls = Pretraining.loss, [0]

    def loss(*given: Any) -> Any:
        calls[0] += 1
        if calls[0] == SHORT_AT and distributed.rank() == 1:
            raise RuntimeError("CUDA error: out of memory")
        return plain(*given)

    Pretraining.loss = loss  # type: ignore[method-assign]


def main(root: Path, folder: Path, trainings: list[dict[str, Any]]) -> None:
    with distributed.together():
        for number, given in enumerate(trainings):
            if given.pop("short", False):
                be_short_of_memory()
            noted, tensors = train(project=Project.open(root), **given)
            if distributed.leads():
                checkpoint.save(folder / f"{number}.safetensors", tensors, {"noted": noted})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
