"""The engine's one door: run a job, whatever it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from medssl.core import jobs
from medssl.core.errors import UserError
from medssl.core.events import Done, Emit, Event, SliceInView, SlicePreview, to_line
from medssl.core.files import remove_unfinished
from medssl.core.jobs import (
    EstimateJob,
    ExportJob,
    FeaturesJob,
    FinetuneJob,
    Job,
    PredictJob,
    PretrainJob,
    SuggestJob,
    TrainingJob,
)
from medssl.core.project.project import Project, Run
from medssl.core.project.runs import refuse_collapsed
from medssl.core.shipped import RANDOM

InView = Callable[[], SliceInView | None]


def load(has_job: Callable[[], bool] = lambda: False) -> None:
    """Import what jobs need, before there is one: it takes seconds.

    Ends early once `has_job` says so: the job imports what it needs.
    """
    parts = ("inference.predict", "inference.features", "segment.finetune", "pretrain.pretrain")
    for name in ("torch", *(f"medssl.tasks.{part}" for part in parts)):
        if has_job():
            return
        import_module(name)
    import torch

    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # the first optimizer imports as much again


def run(
    job: Job, emit: Emit, should_stop: Callable[[], bool], in_view: InView | None = None
) -> dict[str, Any]:
    """Carry out a job; returns the result that its Done event carries too.

    emit: gets every event, Started first and Done last; they are also kept in the run's events.jsonl, but for
    previews of slices. should_stop: asked after every step. in_view: asked during a fine-tuning for the slice
    on the screen, of which it then emits previews; without it there are none.

    Raises UserError for whatever the user can put right; the caller makes a Failed event of it.
    """
    project = Project.open(Path(job.project))
    # Imported here and below, after the project proved to be in order: torch takes seconds.
    from medssl.nn import devices

    try:
        if isinstance(job, TrainingJob):
            return _train(project, job, emit, should_stop, in_view)
        return _use(project, job, emit, should_stop)
    except (RuntimeError, MemoryError) as error:
        if not devices.out_of_memory(error):
            raise
        raise UserError(
            "The device has too little memory for these scans; close other programs or choose --device cpu.",
            code="memory",
        ) from error


def _use(project: Project, job: Job, emit: Emit, should_stop: Callable[[], bool]) -> dict[str, Any]:
    """Everything that does not train: predict, features, export, suggest slices, estimate a training."""
    if isinstance(job, PredictJob | FeaturesJob | ExportJob):
        _known_scans(project, job.scans)
    if isinstance(job, PredictJob):
        from medssl.tasks.inference.predict import predict

        result = predict(project, project.run(job.weights), job, emit, should_stop)
    elif isinstance(job, FeaturesJob):
        from medssl.tasks.inference.features import features

        result = features(project, project.run(job.weights), job, emit, should_stop)
    elif isinstance(job, ExportJob):
        from medssl.tasks.export import export_scans

        result = export_scans(project, job, emit, should_stop)
    elif isinstance(job, SuggestJob):
        from medssl.tasks.active_learning.suggest import suggest

        result = suggest(project, job, emit, should_stop)
    elif isinstance(job, EstimateJob):
        from medssl.tasks.profiling import rehearse

        result = rehearse(project, job, emit, should_stop)
    else:
        raise UserError(f"{job!r} is no job of this engine; see `medssl run --help`.", code="bad-job")
    emit(Done(bool(result["stopped"]), result))
    return result


def _train(
    project: Project, job: TrainingJob, emit: Emit, should_stop: Callable[[], bool], in_view: InView | None
) -> dict[str, Any]:
    """Pre-train or fine-tune in a run folder of its own, or go on with the run that `job.resume` names."""
    from medssl.nn.models import checkpoint
    from medssl.tasks.inference.predict import predict_scans
    from medssl.tasks.pretrain.pretrain import pretrain
    from medssl.tasks.segment.finetune import check_annotations, finetune

    if isinstance(job, FinetuneJob):
        check_annotations(project)
        _known_scans(project, job.predict_scans)
        if job.weights not in (None, RANDOM):
            refuse_collapsed(project.run(job.weights))
    if job.steps is None and job.minutes is None and job.resume is None:
        job = replace(job, minutes=jobs.MINUTES)
    stored = None
    if job.resume:
        chosen = project.run(job.resume)
        job = _resumed(chosen, job)
        remove_unfinished(chosen.folder)
        if chosen.checkpoint.exists():
            stored = checkpoint.load(chosen.checkpoint)
    else:
        name = job.method if isinstance(job, PretrainJob) else "from-" + _origin(project, job)
        chosen = project.new_run(jobs.kind_of(job), jobs.to_json(job), name)
    say = _kept(emit, chosen.folder / "events.jsonl")
    if isinstance(job, PretrainJob):
        result = pretrain(project, chosen, job, say, should_stop, stored)
    else:
        assert isinstance(job, FinetuneJob)
        result = finetune(project, chosen, job, say, should_stop, stored, in_view)
        # A stopped training predicts too: whoever stops wants to see what there is.
        predict_scans(project, chosen, job.predict_scans, job.device, say, lambda: False)
    say(Done(bool(result["stopped"]), result))
    return result


def _kept(emit: Emit, path: Path) -> Emit:
    """An Emit that also adds each event to the file at `path`, but for previews of slices."""

    def say(event: Event) -> None:
        if not isinstance(event, SlicePreview):
            # A log that a full disk cut short is no reason to end a training; its checkpoints will say so.
            with suppress(OSError), path.open("a", encoding="utf-8") as log:
                log.write(to_line(event) + "\n")
        emit(event)

    return say


def _origin(project: Project, job: TrainingJob) -> str:
    weights = getattr(job, "weights", None)
    if weights in (None, RANDOM):
        return RANDOM
    return str(project.run(weights).job.get("method", "finetuned"))


def _resumed(chosen: Run, job: TrainingJob) -> TrainingJob:
    """The run's own job, with a new budget and device where they are given."""
    if chosen.kind != jobs.kind_of(job):
        raise UserError(
            f"{chosen.id} is a {chosen.kind} run and cannot be gone on with as {jobs.kind_of(job)}; choose "
            f"another run or use {chosen.kind}.",
            code="wrong-run",
        )
    fields = {name: value for name, value in chosen.job.items() if name != "job"}
    before = jobs.from_json(type(job), fields, str(chosen.folder / "job.json"))
    return replace(
        before,
        project=job.project,
        resume=job.resume,
        device=job.device,
        minutes=before.minutes if job.minutes is None else job.minutes,
        steps=before.steps if job.steps is None else job.steps,
    )


def _known_scans(project: Project, scans: tuple[str, ...]) -> None:
    for scan in scans:
        if scan not in project.scans:
            raise UserError(
                f"{project.root} has no scan {scan!r}; it has {', '.join(project.scans) or 'none yet'}.",
                code="no-scan",
            )
