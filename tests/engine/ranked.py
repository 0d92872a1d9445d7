"""Trainings whose every step is noted, in one process or, under torchrun, in several.

`torchrun --nproc-per-node 2 tests/engine/ranked.py PROJECT RESULT KIND ...` trains one kind after another, so
that torch is loaded once, and writes the scalars of each step of rank 0.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from medssl.core.events import Metric
from medssl.core.jobs import PretrainJob
from medssl.core.project.project import Project
from medssl.nn import distributed
from medssl.nn.models import checkpoint
from medssl.tasks import loop
from small import SETTINGS, Events, job_of, run
from torch import Tensor

BATCH = 5
"""Rows of all processes together: of two, one has three and the other two."""
SHAPES = {"precision": "fp32", "threads": 1, "sizes": [16, 32]}


def job(kind: str, project: Project, **changes: Any) -> Any:
    """A training of ten small steps; see `small.job_of`."""
    if kind == "shapes":
        fields = {"method": kind, "steps": 10, "device": "cpu", "settings": {**SHAPES, "batch": BATCH}}
        return PretrainJob(project=str(project.root), **{**fields, **changes})
    small = job_of(kind, project)
    assert SETTINGS["batch"] == 2
    return job_of(kind, project, settings={**small.settings, "batch": BATCH}, **changes)


def train(kind: str, project: Project) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """The scalars of each step, and the tensors of the checkpoint."""
    events = Events()
    result = run(job(kind, project), events)
    steps = [event.values for event in events.of(Metric) if "loss" in event.values]
    return steps, checkpoint.load(project.run(result["run"]).checkpoint)[0]


def main(root: Path, result: Path, kinds: list[str]) -> None:
    loop.REPORT_EVERY_S = -1.0
    found: dict[str, Any] = {}
    with distributed.together():
        for kind in kinds:
            steps, tensors = train(kind, Project.open(root))
            found[kind] = steps
            if distributed.leads():
                checkpoint.save(result.with_name(f"{kind}.safetensors"), tensors, {})
        if distributed.leads():
            result.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
