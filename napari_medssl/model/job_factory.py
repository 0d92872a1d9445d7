"""Creates the jobs that a user can start from the state of the session, without starting them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from medssl.core import jobs
from medssl.core.errors import UserError
from medssl.core.project.project import Run

from napari_medssl.model.session import Session


def pretrain_job(session: Session, method: str, recipe: str, minutes: float) -> jobs.PretrainJob:
    """A pre-training on all scans of the project.

    Args:
        session: The state of the viewer.
        method: Name of the method.
        recipe: Name of the recipe, without the method's name.
        minutes: Time budget.

    Raises:
        UserError: "no-project", "no-scan".
    """
    project = session.need_project()
    session.need_scan()
    return jobs.PretrainJob(project=str(project.root), method=method, recipe=recipe, minutes=minutes)


J = TypeVar("J", bound=jobs.TrainingJob)


def with_settings(job: J, chosen: dict[str, Any]) -> J:
    """The job with settings of its recipe changed; "seed" and "device" are the job's own fields."""
    own = {name: value for name, value in chosen.items() if name in ("seed", "device")}
    rest = {name: value for name, value in chosen.items() if name not in own}
    return replace(job, settings={**job.settings, **rest}, **own)


def resume_job(session: Session, run: Run) -> jobs.Job:
    """A job that continues a run from its last checkpoint.

    Raises:
        UserError: "no-project".
    """
    kind = jobs.PretrainJob if run.job.get("job") == "pretrain" else jobs.FinetuneJob
    return kind(project=str(session.need_project().root), resume=run.id)


def finetune_job(session: Session, weights: str, minutes: float) -> jobs.FinetuneJob:
    """A fine-tuning on all annotations that then segments the current scan.

    Args:
        session: The state of the viewer.
        weights: Initial weights, as in `jobs.FinetuneJob`.
        minutes: Time budget.

    Raises:
        UserError: "no-project", "no-scan", "nothing-annotated".
    """
    project, scan = session.need_project(), session.need_scan()
    if not session.annotated:
        raise UserError(
            "Nothing is annotated yet; paint a few slices in step 2 and mark them complete.",
            code="nothing-annotated",
        )
    return jobs.FinetuneJob(
        project=str(project.root), weights=weights, minutes=minutes, predict_scans=(scan.id,)
    )


def predict_job(session: Session) -> jobs.PredictJob | None:
    """A job that segments the current scan with the newest fine-tuning; None if there is nothing to do."""
    newest, project = next(iter(session.runs("finetune")), None), session.project
    if project is None or session.scan is None or newest is None:
        return None
    if project.has_prediction(newest.id, session.scan):
        return None
    return jobs.PredictJob(project=str(project.root), weights=newest.id, scans=(session.scan,))


def features_job(session: Session, weights: str) -> jobs.FeaturesJob:
    """A job that computes dense features of the current scan.

    Raises:
        UserError: "no-project", "no-scan".
    """
    project, scan = session.need_project(), session.need_scan()
    return jobs.FeaturesJob(project=str(project.root), weights=weights, scans=(scan.id,))
