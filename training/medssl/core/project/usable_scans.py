"""Which scans of a project a job can use: those whose files are damaged are left out, and named."""

from __future__ import annotations

from dataclasses import replace

from medssl.core.jobs import (
    EstimateJob,
    ExportJob,
    ExportWeightsJob,
    FeaturesJob,
    FinetuneJob,
    Job,
    PredictJob,
    SuggestJob,
    TrainingJob,
)
from medssl.core.project.damage import damaged_annotations, damaged_images
from medssl.core.project.project import Project


def without_damaged(project: Project, job: Job) -> tuple[Job, dict[str, str]]:
    """Leave the scans out whose files are damaged, so that the job goes on with the others.

    Returns:
        The job, and {scan id: why it is left out}. The project object no longer has these scans, except those
        of a fine-tuning whose annotation alone is damaged: they can be predicted.

    Raises:
        UserError: "no-scan" for a scan that the project does not have; if nothing is left, the first damage.
    """
    named = _scans_of(job)
    for scan in named:
        project.scan(scan)  # or "no-scan"
    if isinstance(job, ExportJob | ExportWeightsJob | EstimateJob):
        return job, {}  # exports say themselves which scans they cannot write; the others read only a few
    errors = damaged_images(project, () if isinstance(job, FinetuneJob) else named)
    project.scans = {scan: fields for scan, fields in project.scans.items() if scan not in errors}
    if isinstance(job, SuggestJob | TrainingJob):
        errors |= damaged_annotations(project)
    if isinstance(job, SuggestJob):
        project.scans = {scan: fields for scan, fields in project.scans.items() if scan not in errors}
    remaining = tuple(scan for scan in named if scan in project.scans)
    if isinstance(job, FinetuneJob):
        job = replace(job, predict_scans=remaining)
    elif named:
        errors = {scan: error for scan, error in errors.items() if scan in named}
        job = replace(job, scans=remaining)  # type: ignore[call-arg]  # of the jobs that name scans
    if errors and not (remaining if named and not isinstance(job, FinetuneJob) else project.scans):
        raise next(iter(errors.values()))
    return job, {scan: str(error) for scan, error in errors.items()}


def _scans_of(job: Job) -> tuple[str, ...]:
    """Ids of the scans that a job names."""
    if isinstance(job, FinetuneJob):
        return job.predict_scans
    return job.scans if isinstance(job, PredictJob | FeaturesJob | ExportJob) else ()
