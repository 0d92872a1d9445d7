"""The command medssl review: the segmentations of a run, those of the lowest expected quality first."""

from __future__ import annotations

from typing import Annotated

import typer

from medssl.cli.options import LAST, ProjectArgument, WeightsOption
from medssl.core.shell import command


def review(
    project: ProjectArgument,
    weights: WeightsOption = LAST,
    accept: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SCAN",
            show_default=False,
            help="Accept the segmentation of this scan first; repeatable. No training learns from it.",
        ),
    ] = None,
) -> None:
    """List the segmentations of a run, the worst first.

    The expected quality of a segmentation is the Dice that the network expects, the mean over the classes.
    It puts segmentations into an order; it does not replace reference labels. Accepted segmentations come
    last. medssl predict segments scans that are not in the list.
    """
    from medssl.cli.refusals import Refusals
    from medssl.cli.selection import choose_run, scan_in
    from medssl.cli.tables import review_table
    from medssl.cli.terminal import console
    from medssl.core.project.project import Project
    from medssl.core.project.review import accept as accept_scan
    from medssl.core.project.review import review_queue

    opened = Project.open(project)
    run = choose_run(opened, weights, ("finetune",))
    refusals = Refusals()

    def accept_named(name: str) -> str:
        scan = scan_in(opened, name)
        accept_scan(opened, run.id, scan)
        return scan

    refusals.resolve(accept or [], accept_named)
    queue = review_queue(opened, run.id)
    names, title = opened.titles, f"Segmentations of {run.id}"
    console(stderr=False).print(review_table(queue, names, opened.classes, title))
    missing = len(opened.scans) - len(queue)
    if missing:
        scans = "1 scan is" if missing == 1 else f"{missing} scans are"
        segment = command("predict", project, "--weights", run.id)
        typer.echo(f"{scans} not segmented yet; {segment} segments all.")
    refusals.end()
