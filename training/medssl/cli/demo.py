"""medssl demo."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from medssl.cli.options import DeviceOption

if TYPE_CHECKING:
    from medssl.benchmarking.demo import Demo

DEMO_MINUTES, DATA_MINUTES = 0.5, 4.0
"""Fine-tuning time of a line and seed: on phantoms, and on a data set."""
PRETRAIN_SHARE = 0.5
"""Of that, what a pre-training on the scans has, before it and on top."""
MARKS = (0.0, 0.25)
"""Shares of the fine-tuning after which it is judged on its way."""


OutOption = Annotated[Path, typer.Option(metavar="DIR", help="Folder for everything that comes of it.")]
ViewOption = Annotated[bool, typer.Option("--view", help="Open the project in napari at the end.")]
SeedOption = Annotated[int, typer.Option(min=0, help="First seed; it also decides which phantoms are made.")]
MinutesOption = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        show_default=False,
        help="Fine-tuning time for each line and seed; a pre-training on the scans has half as much on top "
        f"({DEMO_MINUTES:g}, with --data {DATA_MINUTES:g}).",
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        show_default=False,
        help="Folder in MSD layout (imagesTr, labelsTr, dataset.json) instead of made-up scans.",
    ),
]
SlicesOption = Annotated[int, typer.Option(min=2, help="Annotated slices in all, on two scans.")]
SeedsOption = Annotated[int, typer.Option(min=1, help="How many seeds; each draws two other scans.")]
MethodsOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        show_default=False,
        help="What fine-tuning starts from: random, shapes (the weights that ship), shapes+pgl (from these, "
        "then on the scans), pgl (on the scans from random weights). "
        "shapes:none and the like say how fine-tuning uses what nobody painted.",
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
    """Show the whole loop on made-up CT scans, or measure it on your own labelled scans.

    Fine-tunes from random weights, from those that ship (shapes), and from these after
    a pre-training on all but the test scans, each time on ten slices that a simulated
    annotator completes; predicts, and compares with the reference. Three minutes
    on two idle CPU cores. Ctrl-C stops; the same command goes on with what is not finished.
    """
    from medssl.benchmarking.demo import COMPARED, Demo
    from medssl.benchmarking.protocol import Early

    minutes = minutes or (DEMO_MINUTES if data is None else DATA_MINUTES)
    names = [name.strip() for name in (methods or COMPARED).split(",") if name.strip()]
    settings = Early(
        slices=slices,
        minutes=minutes,
        device=device,
        pretrain_minutes=minutes * PRETRAIN_SHARE,
        marks_s=tuple(round(60 * minutes * share, 1) for share in MARKS),
    )
    _demonstrate(
        Demo(
            out=out,
            data=data,
            methods=tuple(dict.fromkeys(names)),
            seeds=tuple(range(seed, seed + seeds)),
            settings=settings,
        )
    )
    if view:
        open_viewer(out / "project")


def _demonstrate(wanted: Demo) -> None:
    """Run the demo, drawn in the terminal, and print its table."""
    from rich.console import Console

    from medssl.benchmarking import demo, report
    from medssl.cli.tables import study_table
    from medssl.cli.terminal import INTERRUPTED, Drawing, console, stop_on_interrupt, worker

    screen = console()

    def say(text: str) -> None:
        screen.print(f"\n[bold]{escape(text)}")

    with stop_on_interrupt(screen) as should_stop:
        work = worker(screen, should_stop)
        with Drawing(screen) as drawing:
            material = demo.prepare(wanted, say, drawing.emit)
        cells = demo.run(wanted, material, work, say)
        if cells:
            demo.export(wanted, material, cells)
            report.write_tables(wanted.out, material, cells)
            Console().print(study_table(cells))
        if should_stop():
            screen.print("Stopped. The same command goes on with what is not finished.")
            raise typer.Exit(INTERRUPTED)
        say("Drawing pictures")
        report.write_pictures(wanted.out, material, cells, work)
    for line in report.contents(wanted.out):
        typer.echo(line)


def open_viewer(project: Path) -> None:
    """Start napari on a project folder, in a process of its own."""
    subprocess.run([sys.executable, "-m", "napari_medssl", str(project)], check=False)
