"""The start of a training, before torch is loaded: may it begin, and the folder of its run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from medssl.core import jobs, settings
from medssl.core.errors import UserError
from medssl.core.jobs import FinetuneJob, PretrainJob, TrainingJob
from medssl.core.project.damage import damaged_annotations
from medssl.core.project.project import Project, Run
from medssl.core.project.runs import refuse_collapsed
from medssl.core.shipped import RANDOM


def check_training(project: Project, job: TrainingJob) -> None:
    """Check that a training may begin.

    Raises:
        UserError: Those of `check_annotations`; "collapsed" for its initial weights; "bad-job".
    """
    if isinstance(job, FinetuneJob):
        check_annotations(project)
        if job.weights not in (None, RANDOM):
            refuse_collapsed(project.run(job.weights))
    if job.resume is None:
        settings.check_job(job)


def check_annotations(project: Project) -> list[str]:
    """Ids of the annotated scans that are not held out.

    Raises:
        UserError: "no-classes" or "no-annotation" if there is nothing to learn from.
    """
    if not project.classes:
        raise UserError(
            f"{project.root} has no class; add a class for the structure to segment.", code="no-classes"
        )
    scans = list(project.annotated())
    for error in damaged_annotations(project).values() if not scans else ():
        raise error
    if not scans:
        raise UserError(
            f"{project.root} has no annotation; annotate some slices of a scan and mark them complete.",
            code="no-annotation",
        )
    return scans


def with_budget(job: TrainingJob) -> TrainingJob:
    """A new training with the usual minutes where it has no budget."""
    return replace(job, minutes=jobs.MINUTES) if job.steps is None and job.minutes is None else job


def begin_training(
    project: Project, job: TrainingJob, new_run: Callable[[str, dict[str, Any], str], Run] | None = None
) -> tuple[Run, TrainingJob]:
    """Make the run of a new training, or find the one that `job.resume` names.

    Args:
        project: The project.
        job: The training.
        new_run: Makes the run; None for `project.new_run`.

    Returns:
        The run, and the job with all that it takes over from a run that is resumed.

    Raises:
        UserError: "no-run", "wrong-run", "read-only", "disk-full", "not-writable".
    """
    if not job.resume:
        job = with_budget(job)
        name = job.method if isinstance(job, PretrainJob) else "from-" + _origin_name(project, job)
        return (new_run or project.new_run)(jobs.kind_of(job), jobs.to_json(job), name), job
    run = project.run(job.resume)
    if run.shipped:
        raise UserError(
            f"{run.id} are the weights that ship, not a training; start a new one from them "
            f"(--weights {run.id}), or name a run to resume.",
            code="no-run",
        )
    job = _resumed_job(run, job)
    if isinstance(job, FinetuneJob):  # scans may have been removed since
        remaining = tuple(scan for scan in job.predict_scans if scan in project.scans)
        job = replace(job, predict_scans=remaining)
    return run, job


def _origin_name(project: Project, job: TrainingJob) -> str:
    """What the weights of a fine-tuning come from: a method's name, "finetuned" or "random"."""
    weights = getattr(job, "weights", None)
    if weights in (None, RANDOM):
        return RANDOM
    return str(project.run(weights).job.get("method", "finetuned"))


def _resumed_job(run: Run, job: TrainingJob) -> TrainingJob:
    """The job of the run to resume, with the new budget and device where they are given."""
    if run.kind != jobs.kind_of(job):
        kind = jobs.TRAININGS.get(run.kind, run.kind)
        raise UserError(
            f"{run.id} is a {kind} run and cannot be resumed with medssl {jobs.kind_of(job)}; "
            f"choose another run or use medssl {run.kind}.",
            code="wrong-run",
        )
    fields = {name: value for name, value in run.job.items() if name != "job"}
    job_of_run = jobs.from_json(type(job), fields, str(run.folder / "job.json"))
    return replace(
        job_of_run,
        project=job.project,
        resume=job.resume,
        device=job.device,
        minutes=job_of_run.minutes if job.minutes is None else job.minutes,
        steps=job_of_run.steps if job.steps is None else job.steps,
    )
