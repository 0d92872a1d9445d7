"""The commands medssl pretrain and medssl finetune."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medssl.cli.options import (
    DeviceOption,
    MinutesOption,
    OnOption,
    OptionalProjectArgument,
    ProjectArgument,
    RecipeOption,
    ResumeOption,
    SeedOption,
    SetOption,
    StepsOption,
    WithNamesOption,
    settings_from,
)
from medssl.core.jobs import MINUTES, SemiSupervised
from medssl.core.methods import ALL, needs_scans
from medssl.core.shell import command
from medssl.core.shipped import RANDOM, SHAPES

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from medssl.core.jobs import TrainingJob

StartOption = Annotated[
    str,
    typer.Option(
        "--weights",
        metavar="WEIGHTS",
        help="Initial weights: shapes (shipped weights, pre-trained on synthetic shapes), random, a run such "
        'as 0001-pretrain-pgl, or "last" for the newest pre-training.',
    ),
]
PretrainStartOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="WEIGHTS",
        show_default=False,
        help="Initial weights: shapes (shipped weights, pre-trained on synthetic shapes), random, or a run "
        "such as 0001-pretrain-pgl. Default: shapes for quick recipes, random for paper recipes.",
    ),
]
PredictOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SCAN",
        show_default=False,
        help='Scan to segment after training; may be repeated; "all" for every scan of the project.',
    ),
]
SemiSupervisedOption = Annotated[
    SemiSupervised,
    typer.Option(
        metavar="CHOICE",
        help="How to use unannotated voxels: pseudo-labels (self_training), pseudo-label-guided contrast "
        "between classes (pseudo_contrast), both, or none.",
    ),
]


KEPT_WITH_RESUME = ("project", "resume", "minutes", "steps", "device", "on")
"""Arguments and options that have an effect on a resumed run."""
MethodOption = Annotated[
    str,
    typer.Option(metavar="METHOD", help=f"Self-supervised method: {', '.join(ALL)}."),
]


def pretrain(
    context: typer.Context,
    project: OptionalProjectArgument = None,
    method: MethodOption = "pgl",
    weights: PretrainStartOption = None,
    minutes: MinutesOption = None,
    steps: StepsOption = None,
    recipe: RecipeOption = "quick",
    setting: SetOption = None,
    resume: ResumeOption = None,
    with_names: WithNamesOption = False,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    on: OnOption = "",
) -> None:
    """Pre-train a network on the project's scans without labels; held-out scans are not used.

    The method shapes learns from synthetic volumes and needs neither scans nor a project. Without a project
    it writes to the folder medssl-shapes.

    Ctrl-C stops after the current step and saves a checkpoint; --resume last continues.
    """
    from medssl.cli.selection import choose_run
    from medssl.core.errors import UserError
    from medssl.core.jobs import PretrainJob
    from medssl.core.project.project import Project
    from medssl.core.settings import check_job

    if project is None and needs_scans(method):
        raise UserError(
            f"The method {method} needs scans; give a project folder (see medssl init).", code="no-project"
        )
    project = project or Path(f"medssl-{method}")
    if weights not in (None, RANDOM, SHAPES):
        weights = choose_run(Project.open(project), weights, ("pretrain",)).id
    job = PretrainJob(
        project=str(project),
        seed=seed,
        device=device,
        minutes=minutes,
        steps=steps,
        resume=_resumed(context, project, resume, minutes, steps),
        settings=settings_from(setting),
        with_names=with_names,
        method=method,
        recipe=recipe,
        weights=weights,
    )
    if not needs_scans(method) and resume is None:
        check_job(job)
        Project.create(project, or_open=True)
    _train(job, on)


def finetune(
    context: typer.Context,
    project: ProjectArgument,
    weights: StartOption = SHAPES,
    predict: PredictOption = None,
    semi_supervised: SemiSupervisedOption = "self_training",
    minutes: MinutesOption = None,
    steps: StepsOption = None,
    recipe: RecipeOption = "quick",
    setting: SetOption = None,
    resume: ResumeOption = None,
    with_names: WithNamesOption = False,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    on: OnOption = "",
) -> None:
    """Train a segmentation on the annotated slices, starting from pre-trained weights.

    Ctrl-C stops after the current step and saves a checkpoint; --resume last continues.
    """
    from medssl.cli.refusals import Refusals
    from medssl.cli.selection import choose_run, scan_in
    from medssl.core.jobs import FinetuneJob
    from medssl.core.project.project import Project

    opened = Project.open(project)
    refusals = Refusals()
    scans = refusals.resolve(predict or [], partial(scan_in, opened)) if predict != ["all"] else opened.scans
    kinds = ("pretrain",) if weights == "last" else ("pretrain", "finetune")
    _train(
        FinetuneJob(
            project=str(project),
            seed=seed,
            device=device,
            minutes=minutes,
            steps=steps,
            resume=_resumed(context, project, resume, minutes, steps),
            settings=settings_from(setting),
            with_names=with_names,
            weights=weights if weights == RANDOM else choose_run(opened, weights, kinds).id,
            recipe=recipe,
            semi_supervised=semi_supervised,
            predict_scans=tuple(scans),
        ),
        on,
    )
    refusals.end()


def _resumed(
    context: typer.Context, project: Path, resume: str | None, minutes: float | None, steps: int | None
) -> str | None:
    """Id of the run to resume.

    Raises:
        UserError: "bad-resume" for options that the run would ignore, and those of `choose_resumable`.
    """
    from medssl.cli.selection import choose_resumable
    from medssl.core.errors import UserError
    from medssl.core.project.project import Project

    if resume is None:
        return None
    ignored = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name not in KEPT_WITH_RESUME and _is_given(context, parameter.name)
    ]
    if ignored:
        raise UserError(
            f"A resumed run keeps its settings, so {' and '.join(ignored)} would be ignored; leave that out, "
            "or leave out --resume to start a new run.",
            code="bad-resume",
        )
    kind = str(context.info_name)
    return choose_resumable(Project.open(project), resume, kind, minutes, steps).id


def _is_given(context: typer.Context, name: str | None) -> bool:
    source = context.get_parameter_source(name) if name else None
    return source is not None and source.name == "COMMANDLINE"


def _train(job: TrainingJob, on: str) -> None:
    """Run a training job, here or on a host, and print its run id, or how to resume it."""
    from medssl.cli.terminal import INTERRUPTED, console, run_job, stop_on_interrupt
    from medssl.core.jobs import kind_of
    from medssl.core.settings import check_job

    if job.resume is None:
        check_job(job)
    screen = console()
    with stop_on_interrupt(screen) as should_stop:
        if not on:
            _print_estimate(job, screen, should_stop)
        result = run_job(job, screen, should_stop, on)
    if result["stopped"] and "run" not in result:
        screen.print("Stopped before the training began.")
        raise typer.Exit(INTERRUPTED)
    if result["stopped"]:
        where = ("--on", on) if on else ()
        resume = command(kind_of(job), job.project, "--resume", result["run"], *where)
        screen.print(f"Stopped. Resume with: {resume}", soft_wrap=True)
        raise typer.Exit(INTERRUPTED)
    typer.echo(result["run"])


def _print_estimate(job: TrainingJob, screen: Console, should_stop: Callable[[], bool]) -> None:
    """Print the expected steps, time and memory, unless the training is resumed or very short."""
    from medssl.cli.terminal import INTERRUPTED, run_job
    from medssl.core.estimate import FEW_STEPS, Estimate, describe
    from medssl.core.jobs import EstimateJob, PretrainJob, from_json, to_json

    minutes = MINUTES if job.minutes is None and job.steps is None else job.minutes
    short = (minutes is not None and minutes < 1) or (job.steps is not None and job.steps < FEW_STEPS)
    without_scans = isinstance(job, PretrainJob) and not needs_scans(job.method)
    if job.resume or short or without_scans:
        return
    result = run_job(EstimateJob(job.project, training=to_json(job)), screen, should_stop)
    if result["stopped"]:
        raise typer.Exit(INTERRUPTED)
    estimate = from_json(Estimate, result["estimate"], "the estimate")
    screen.print(describe(estimate, minutes, job.steps), soft_wrap=True)
