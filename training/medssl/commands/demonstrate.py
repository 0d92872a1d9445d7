"""medssl demo."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from medssl.commands.options import DeviceOption

if TYPE_CHECKING:
    from medssl.evidence.demo import Demo

DEMO_MINUTES, DATA_MINUTES = 2.0, 4.0
"""Training time of a method and seed: on phantoms, and on a data set (the protocol allows 10)."""


OutOption = Annotated[Path, typer.Option(metavar="DIR", help="Folder for everything that comes of it.")]
ViewOption = Annotated[bool, typer.Option("--view", help="Open the project in napari at the end.")]
SeedOption = Annotated[int, typer.Option(min=0, help="First seed; it also decides which phantoms are made.")]
MinutesOption = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        show_default=False,
        help="Training time for each method and seed, pre-training and fine-tuning together "
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
        help="What to compare: random or pre-training methods (random,pgl; with --data random,mae,pgl); "
        "pgl:none and the like say how fine-tuning uses what nobody painted.",
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

    Pre-trains on all but the test scans, fine-tunes from random and from
    pre-trained weights on ten slices that a simulated annotator completes,
    predicts, and compares with the reference. About five minutes on two CPU
    cores. Ctrl-C stops; the same command goes on with what is not finished.
    """
    from medssl.evidence.demo import Demo
    from medssl.evidence.study import Settings

    default_methods = "random,pgl" if data is None else "random,mae,pgl"
    default_minutes = DEMO_MINUTES if data is None else DATA_MINUTES
    names = [name.strip() for name in (methods or default_methods).split(",") if name.strip()]
    _demonstrate(
        Demo(
            out=out,
            data=data,
            methods=tuple(dict.fromkeys(names)),
            seeds=tuple(range(seed, seed + seeds)),
            settings=Settings(slices=slices, minutes=minutes or default_minutes, device=device),
        )
    )
    if view:
        open_viewer(out / "project")


def _demonstrate(wanted: Demo) -> None:
    """Run the demo, drawn in the terminal, and print its table."""
    from rich.console import Console

    from medssl.commands.tables import study_table
    from medssl.commands.terminal import INTERRUPTED, Drawing, console, stop_on_interrupt, worker
    from medssl.evidence import demo, report

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
