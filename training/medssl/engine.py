"""Run any job of the engine: the single entry point of the command line, the worker and the tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.core import jobs, ranks, settings
from medssl.core.allocator import keep_freed_memory
from medssl.core.errors import UserError
from medssl.core.events import Done, Emit, Event, Notice, SliceInView, announcing, logged
from medssl.core.jobs import (
    EstimateJob,
    ExportJob,
    ExportWeightsJob,
    FeaturesJob,
    FinetuneJob,
    Job,
    PredictJob,
    PretrainJob,
    SuggestJob,
    TrainingJob,
)
from medssl.core.project.cards import need
from medssl.core.project.damage import damaged_annotations, damaged_images
from medssl.core.project.locks import training_lock
from medssl.core.project.project import Project, Run
from medssl.core.project.removal import refused_leaves_nothing
from medssl.core.project.runs import refuse_collapsed
from medssl.core.shipped import RANDOM

if TYPE_CHECKING:
    from torch import Tensor

InView = Callable[[], SliceInView | None]
"""Returns the slice that the viewer shows, None while it is unknown."""


def load(has_job: Callable[[], bool] = lambda: False) -> None:
    """Import the modules that jobs need ahead of the first job, which takes seconds.

    Args:
        has_job: Returns True once a job has arrived; the import then ends, because the job imports the rest.
    """
    tasks = ("inference.predict", "inference.features", "segment.finetune", "pretrain.pretrain")
    for name in ("torch", *(f"medssl.tasks.{task}" for task in tasks)):
        if has_job():
            return
        import_module(name)
    import torch

    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # the first optimizer imports as much again


def run(
    job: Job, emit: Emit, should_stop: Callable[[], bool], in_view: InView | None = None
) -> dict[str, Any]:
    """Run a job to its end.

    Args:
        job: Any job of `medssl.core.jobs`.
        emit: Receives every event, Started first and Done last. A training also appends them to
            `events.jsonl` in its run folder, except for slice previews.
        should_stop: Called after every step; the job ends with a checkpoint once it returns True.
        in_view: Called during fine-tuning for the slice on the screen, of which previews are emitted.
            Without it there are no previews.

    Returns:
        The result of the job, JSON-able; the Done event carries the same.

    Raises:
        UserError: For anything that the user can correct; the caller turns it into a Failed event.

    Example:
        >>> job = PretrainJob(project="/data/liver", method="mae", minutes=5)
        >>> result = run(job, emit=print, should_stop=lambda: False)
        >>> result["run"]
        '0001-pretrain-mae'
    """
    keep_freed_memory()
    if ranks.world() == 1:
        return _run(job, emit, should_stop, in_view)
    if not isinstance(job, TrainingJob):  # rank 0 alone runs it
        return {} if ranks.rank() else _run(job, emit, should_stop, in_view)
    from medssl.nn.distributed import in_order, together

    with together():  # nobody looks on
        return _run(job, _unheard if ranks.rank() else emit, should_stop, None, in_order)


def _run(
    job: Job,
    emit: Emit,
    should_stop: Callable[[], bool],
    in_view: InView | None,
    in_order: Callable[[Callable[[], Any]], Any] = lambda function: function(),
) -> dict[str, Any]:
    """`run`, in a process that may train together with others, which repair a project in order."""
    project = Project.open(Path(job.project))
    if ranks.rank() == 0:
        project.remove_unfinished()
    notices: list[str] = []
    project.on_notice = notices.append  # Started is the first event
    job, left_out = in_order(lambda: _without_damaged(project, job))
    notices += left_out.values()
    project.on_notice = lambda text: emit(Notice(text))
    # Imported here and below, once the project has been opened without an error: torch takes seconds.
    from medssl.nn import devices

    try:
        if isinstance(job, TrainingJob):
            return _train(project, job, emit, should_stop, in_view, notices)
        return _run_task(project, job, announcing(emit, notices), should_stop, left_out)
    except (RuntimeError, MemoryError) as error:
        if not devices.out_of_memory(error):
            raise
        raise UserError(
            "The device does not have enough memory for these scans; close other programs or choose "
            "--device cpu.",
            code="memory",
        ) from error


def _unheard(event: Event) -> None:
    """An Emit of a process that is not to speak."""


def _run_task(
    project: Project, job: Job, emit: Emit, should_stop: Callable[[], bool], left_out: dict[str, str]
) -> dict[str, Any]:
    """Run a job that does not train: predict, features, export, export-weights, suggest or estimate."""
    if isinstance(job, PredictJob):
        from medssl.tasks.inference.predict import predict

        result = predict(project, project.run(job.weights), job, emit, should_stop)
    elif isinstance(job, FeaturesJob):
        from medssl.tasks.inference.features import features

        result = features(project, project.run(job.weights), job, emit, should_stop)
    elif isinstance(job, ExportJob):
        from medssl.tasks.export import export_scans

        result = export_scans(project, job, emit, should_stop)
    elif isinstance(job, ExportWeightsJob):
        from medssl.tasks.weights_out.export_weights import export_weights

        result = export_weights(project, project.run(job.weights), job, emit, should_stop)
    elif isinstance(job, SuggestJob):
        from medssl.tasks.active_learning.suggest import suggest

        result = suggest(project, job, emit, should_stop)
    elif isinstance(job, EstimateJob):
        from medssl.tasks.profiling import profile

        result = profile(project, job, emit, should_stop)
    else:
        raise UserError(f"{job!r} is not a job of this engine; see `medssl run --help`.", code="bad-job")
    left_out = left_out | result.pop("left_out", {})
    result = {**result, "left_out": left_out} if left_out else result
    emit(Done(bool(result["stopped"]), result))
    return result


def _without_damaged(project: Project, job: Job) -> tuple[Job, dict[str, str]]:
    """Leave the scans out whose files are damaged, so that the job goes on with the others.

    Returns:
        The job, and {scan id: why it is left out}. The project object no longer has these scans, except those
        of a fine-tuning whose annotation alone is damaged: they can be predicted.

    Raises:
        UserError: "no-scan" for a scan that the project does not have; if nothing is left, the first damage.
    """
    named = _scans_of(job)
    _check_scans(project, named)
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


def _train(
    project: Project,
    job: TrainingJob,
    emit: Emit,
    should_stop: Callable[[], bool],
    in_view: InView | None,
    notices: Sequence[str],
) -> dict[str, Any]:
    """Pre-train or fine-tune in a new run folder, or resume the run that `job.resume` names."""
    from medssl.nn import devices, distributed
    from medssl.tasks.inference.predict import predict_scans
    from medssl.tasks.pretrain.pretrain import pretrain
    from medssl.tasks.segment.finetune import check_annotations, finetune
    from medssl.tasks.tensorboard import curves

    scans = distributed.decided(lambda: [*project.scans])  # one may have been added meanwhile
    project.scans = {scan: project.scan(scan) for scan in scans}
    if isinstance(job, FinetuneJob):
        check_annotations(project)
        if job.weights not in (None, RANDOM):
            refuse_collapsed(project.run(job.weights))
    if job.resume is None:  # before there is a run
        settings.check_job(job)
        devices.choose(job.device)
        if job.steps is None and job.minutes is None:
            job = replace(job, minutes=jobs.MINUTES)
    if job.resume:
        training_run = project.run(job.resume)
        job = _resumed_job(training_run, job)
        if isinstance(job, FinetuneJob):  # scans may have been removed since
            remaining = tuple(scan for scan in job.predict_scans if scan in project.scans)
            job = replace(job, predict_scans=remaining)
    else:
        name = job.method if isinstance(job, PretrainJob) else "from-" + _origin_name(project, job)
        kind, fields = jobs.kind_of(job), jobs.to_json(job)
        training_run = project.run(distributed.decided(lambda: project.new_run(kind, fields, name).id))
    with ExitStack() as held:
        if distributed.leads():
            held.enter_context(refused_leaves_nothing(training_run, not job.resume))
            held.enter_context(training_lock(training_run.folder))
            emit = logged(emit, training_run.folder / "events.jsonl")
            emit = announcing(held.enter_context(curves(emit, project, training_run)), notices)
        stored = _stored(training_run) if job.resume else None
        if isinstance(job, PretrainJob):
            result = pretrain(project, training_run, job, emit, should_stop, stored)
        else:
            assert isinstance(job, FinetuneJob)
            result = finetune(project, training_run, job, emit, should_stop, stored, in_view)
            if distributed.leads():  # a stopped training predicts too, so that its result can be inspected
                predict_scans(project, training_run, job.predict_scans, job.device, emit, lambda: False)
        emit(Done(bool(result["stopped"]), result))
    return result


def _stored(training_run: Run) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and card from which a run is resumed; None if it has no checkpoint yet."""
    from medssl.nn.models import checkpoint

    if not training_run.checkpoint.exists():
        return None
    stored = checkpoint.load(training_run.checkpoint)
    by_kind = "classes" if training_run.kind == "finetune" else "method"
    need(stored[1], "plan", "job", "step", "elapsed_s", by_kind, where=str(training_run.checkpoint))
    return stored


def _origin_name(project: Project, job: TrainingJob) -> str:
    """What the weights of a fine-tuning come from: a method's name, "finetuned" or "random"."""
    weights = getattr(job, "weights", None)
    if weights in (None, RANDOM):
        return RANDOM
    return str(project.run(weights).job.get("method", "finetuned"))


def _resumed_job(training_run: Run, job: TrainingJob) -> TrainingJob:
    """The job of the run to resume, with the new budget and device where they are given."""
    if training_run.kind != jobs.kind_of(job):
        kind = jobs.TRAININGS.get(training_run.kind, training_run.kind)
        raise UserError(
            f"{training_run.id} is a {kind} run and cannot be resumed with medssl {jobs.kind_of(job)}; "
            f"choose another run or use medssl {training_run.kind}.",
            code="wrong-run",
        )
    fields = {name: value for name, value in training_run.job.items() if name != "job"}
    job_of_run = jobs.from_json(type(job), fields, str(training_run.folder / "job.json"))
    return replace(
        job_of_run,
        project=job.project,
        resume=job.resume,
        device=job.device,
        minutes=job_of_run.minutes if job.minutes is None else job.minutes,
        steps=job_of_run.steps if job.steps is None else job.steps,
    )


def _check_scans(project: Project, scans: tuple[str, ...]) -> None:
    for scan in scans:
        project.scan(scan)  # or "no-scan"
