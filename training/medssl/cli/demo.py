"""The command medssl demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medssl.cli.options import DeviceOption, positive
from medssl.cli.view import open_viewer

if TYPE_CHECKING:
    from medssl.benchmarking.demo import Demo

DEMO_MINUTES, DATA_MINUTES = 0.5, 4.0
"""Default fine-tuning time per initialisation and seed: on phantoms with a fast processor, on a data set."""
PRETRAIN_FRACTION = 0.5
"""Pre-training time on the scans as a fraction of the fine-tuning time; it is added to that time."""
SNAPSHOT_FRACTIONS = (0.0, 0.25)
"""Fractions of the fine-tuning time after which the test scans are also evaluated."""


OutOption = Annotated[Path, typer.Option(metavar="DIR", file_okay=False, help="Output folder.")]
ViewOption = Annotated[bool, typer.Option("--view", help="Open the project in napari at the end.")]
SeedOption = Annotated[
    int,
    typer.Option(
        min=0, max=2**20, metavar="SEED", help="First random seed; it also determines the synthetic scans."
    ),
]
MinutesOption = Annotated[
    float | None,
    typer.Option(
        callback=positive,
        metavar="MINUTES",
        show_default=False,
        help="Fine-tuning time in minutes for each method and seed; a pre-training on the scans takes half "
        f"as long in addition (default: {DEMO_MINUTES:g}, up to {DEMO_MINUTES * 1.4:g} on a slow or "
        f"busy processor; with --data {DATA_MINUTES:g}).",
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        file_okay=False,
        show_default=False,
        help="Data set in MSD layout (imagesTr, labelsTr, dataset.json) to use instead of synthetic scans.",
    ),
]
SlicesOption = Annotated[int, typer.Option(min=2, help="Total number of annotated slices, on two scans.")]
SeedsOption = Annotated[
    int, typer.Option(min=1, help="Number of random seeds; each draws the two scans to annotate.")
]
MethodsOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        show_default=False,
        help="Methods to compare, separated by commas: random (random weights), shapes (shipped weights), "
        "pgl (pre-training on the scans from random weights), shapes+pgl (the same from shipped weights; "
        "default: random,shapes,shapes+supervoxels). "
        "A suffix sets --semi-supervised of the fine-tuning, e.g. shapes:none.",
    ),
]


def demo(
    out: OutOption = Path("medssl-demo"),
    view: ViewOption = False,
    seed: SeedOption = 0,
    minutes: MinutesOption = None,
    data: DataOption = None,
    slices: SlicesOption = 10,
    seeds: SeedsOption = 1,
    methods: MethodsOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Run the whole workflow on synthetic CT scans, or measure it on your own labelled scans.

    A simulated annotator labels ten slices. The network is fine-tuned on them from random
    weights, from the shipped weights (shapes), and from these after a pre-training on all
    scans but the test scans. The predictions of the test scans are compared with the
    reference labels. Takes three to five minutes on two CPU cores (--minutes
    0.1 one, to see that it works). Ctrl-C stops; the same command resumes with what is not finished.
    """
    from medssl.benchmarking.demo import COMPARED, Demo, check_methods, minutes_of_a_row
    from medssl.benchmarking.protocol import Early
    from medssl.nn import devices

    names = [name.strip() for name in (methods or COMPARED).split(",") if name.strip()]
    compared = check_methods(names)
    devices.choose(device)
    if minutes is None:
        minutes = DATA_MINUTES if data else minutes_of_a_row(out, DEMO_MINUTES, device)
    settings = Early(
        slices=slices,
        minutes=minutes,
        device=device,
        pretrain_minutes=minutes * PRETRAIN_FRACTION,
        marks_s=tuple(round(60 * minutes * fraction, 1) for fraction in SNAPSHOT_FRACTIONS),
    )
    _run_demo(
        Demo(
            out=out,
            data=data,
            methods=compared,
            seeds=tuple(range(seed, seed + seeds)),
            settings=settings,
        )
    )
    if view:
        open_viewer([out / "project"])


def _run_demo(settings: Demo) -> None:
    """Run the demo with progress in the terminal, and print its table of Dice scores."""
    from medssl.benchmarking import demo, report
    from medssl.cli.tables import study_table
    from medssl.cli.terminal import INTERRUPTED, Drawing, console, stop_on_interrupt, worker

    screen = console()

    def say(text: str) -> None:
        screen.print(f"\n{text}", style="bold")

    with stop_on_interrupt(screen) as should_stop:
        work = worker(screen, should_stop)
        with Drawing(screen) as drawing:
            material = demo.prepare(settings, say, drawing.emit)
        cells = demo.run(settings, material, work, say)
        if cells:
            demo.export(settings, material, cells)
            report.write_tables(settings.out, material, cells)
            console(stderr=False).print(study_table(cells))
        if should_stop():
            screen.print("Stopped. The same command resumes with what is not finished.")
            raise typer.Exit(INTERRUPTED)
        say("Drawing figures")
        report.write_pictures(settings.out, material, cells, work)
    for line in report.contents(settings.out):
        typer.echo(line)
