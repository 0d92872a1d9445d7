"""A stand-in for the engine, for tests of what is built around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from medssl.core.jobs import Job, kind_of, to_json
from medssl.core.project.project import Project


class Engine:
    """Does what the engine does to a project, and remembers the jobs; predicts the structure's lower half."""

    def __init__(self) -> None:
        self.jobs: list[Any] = []

    def __call__(self, job: Job) -> dict[str, Any]:
        self.jobs.append(job)
        project = Project.open(Path(job.project))
        run = project.new_run(kind_of(job), to_json(job), "made")
        for scan in getattr(job, "predict_scans", ()):
            labels = np.zeros(project.scans[scan].geometry.shape_zyx, dtype=np.uint8)
            labels[6:10, 1:4, 1:4] = 1
            project.save_prediction(run.id, scan, labels)
        return {"run": run.id, "seconds": 60.0, "stopped": False}
