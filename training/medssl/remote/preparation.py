"""Here: which job a relay has to do with, and its run."""

from __future__ import annotations

import hashlib
import json
import platform
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from medssl.core import jobs
from medssl.core.errors import UserError
from medssl.core.jobs import Job, PredictJob, TrainingJob
from medssl.core.project.elsewhere import elsewhere
from medssl.core.project.project import Project, Run
from medssl.core.project.removal import refused_leaves_nothing
from medssl.core.project.training_start import begin_training, check_training, with_budget
from medssl.core.project.usable_scans import without_damaged
from medssl.remote.outgoing import Outgoing, outgoing


@dataclass(frozen=True)
class Prepared:
    """A job that runs, or is to run, on another computer.

    Attributes:
        id: Its id there.
        run: The run that its results belong to.
        outgoing: Makes what it needs there.
        left_out: {scan id: why it is left out}.
        trains: Whether it is a training of the run.
        is_new: Whether the run was made for it, just now.
        is_there: Whether it was sent there before.
        is_resumed: Whether it was sent there before by another job, which this one resumes.
    """

    id: str
    run: Run
    outgoing: Callable[[], Outgoing]
    left_out: dict[str, str]
    trains: bool = False
    is_new: bool = False
    is_there: bool = False
    is_resumed: bool = False


def check(job: Job, host: str) -> None:
    """Refuse what runs on this computer alone.

    Raises:
        UserError: "bad-job".
    """
    if not isinstance(job, TrainingJob | PredictJob):
        raise UserError(
            f"A {jobs.kind_of(job)} job runs on this computer alone; leave out --on {host}.", code="bad-job"
        )
    if isinstance(job, TrainingJob) and job.with_names:
        raise UserError(
            "Paths and names of scans stay on this computer, so they cannot be written into weights on "
            f"{host}; leave out --with-names.",
            code="bad-job",
        )


def prepare(project: Project, job: Job, host: str) -> Prepared:
    """Find the job that is there already, or make its run.

    Args:
        project: The project.
        job: A training or a prediction.
        host: Where it is to run.

    Raises:
        UserError: Those of `medssl.engine.run` before the first step; "elsewhere" for a run on another host.
    """
    if isinstance(job, TrainingJob):
        return _prepare_training(project, job, host)
    assert isinstance(job, PredictJob)
    run = project.run(job.weights)
    usable, left_out = without_damaged(project, job)
    out = outgoing(project, usable, None)
    return Prepared(_id_of(project, out), run, lambda: out, left_out)


def _prepare_training(project: Project, job: TrainingJob, host: str) -> Prepared:
    run = _there(project, job, host)
    if run is not None:
        place = elsewhere(run)
        assert place is not None
        if place.host != host:
            raise UserError(
                f"{run.id} is trained on {place.host}; take it up there (--on {place.host}).",
                code="elsewhere",
            )
        again = job if job.resume else type(job)(project=job.project)
        again = replace(again, resume=run.id)
        return Prepared(
            place.job,
            run,
            lambda: _begun(project, again)[1],
            {},
            trains=True,
            is_there=True,
            is_resumed=bool(job.resume),
        )
    check_training(project, job)
    run, out, left_out = _begun(project, job)
    return Prepared(secrets.token_hex(16), run, lambda: out, left_out, trains=True, is_new=not job.resume)


def _begun(project: Project, job: TrainingJob) -> tuple[Run, Outgoing, dict[str, str]]:
    """The run of a training, what it needs, and {scan id: why it is left out}."""
    usable, left_out = without_damaged(project, job)
    assert isinstance(usable, TrainingJob)
    run, usable = begin_training(project, usable)
    with refused_leaves_nothing(run, not job.resume):
        return run, outgoing(project, usable, run, left_out), left_out


def _there(project: Project, job: TrainingJob, host: str) -> Run | None:
    """The run of a training that is on another computer: the one to resume, or one of the same job."""
    if job.resume:
        run = project.run(job.resume)
        return run if elsewhere(run) is not None else None
    wanted = _as_stored(jobs.to_json(with_budget(job)))
    for run in reversed(project.runs(jobs.kind_of(job))):
        with suppress(UserError):  # which whoever resumes that run is told
            place = elsewhere(run)
            if place is not None and place.host == host and _as_stored(run.job) == wanted:
                return run
    return None


def _as_stored(job: dict[str, Any]) -> dict[str, Any]:
    """A job as a file has it, wherever the project is."""
    stored: dict[str, Any] = json.loads(json.dumps({**job, "project": ""}))
    return stored


def _id_of(project: Project, out: Outgoing) -> str:
    """An id that is the same for the same job on the same files of this project."""
    names = sorted((file.name, file.sha256) for file in out.files)
    where = (platform.node(), str(project.root.resolve()))
    return hashlib.sha256(json.dumps([where, out.job, names]).encode()).hexdigest()[:32]
