"""medssl export: segmentations as files, with their records and a table of volumes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medssl.cli.options import LAST, DeviceOption, FormatOption, ProjectArgument

if TYPE_CHECKING:
    from medssl.core.errors import UserError
    from medssl.core.jobs import Job
    from medssl.core.labels.postprocess import Postprocessing

NO_RUN = "none"


def export(
    project: ProjectArgument,
    scans: Annotated[
        list[str] | None,
        typer.Argument(metavar="SCAN", show_default=False, help="Scans of the project; none means all."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", show_default=False, help="Folder for the files.")] = ...,  # type: ignore[assignment]  # typer's way to say: required
    ending: FormatOption = "nii.gz",
    weights: Annotated[
        str,
        typer.Option(
            metavar="RUN",
            help='Fine-tuning run that says what nobody painted; "last" is the newest, "none" exports only '
            "what is painted.",
        ),
    ] = LAST,
    largest: Annotated[
        bool, typer.Option("--largest", help="Keep only the largest connected part of each predicted class.")
    ] = False,
    drop_ml: Annotated[
        float, typer.Option("--drop-ml", metavar="ML", min=0, help="Drop predicted parts smaller than this.")
    ] = 0.0,
    fill_holes: Annotated[
        bool, typer.Option("--fill-holes", help="Fill holes that a predicted class encloses.")
    ] = False,
    device: DeviceOption = "auto",
) -> None:
    """Write segmentations: your paint where you painted, the prediction elsewhere.

    Each lies exactly on the grid of the scan's file, with a record of what
    made it beside it; volumes.csv has the volume of each class in each scan.
    Scans that the run has not segmented yet are segmented first.
    """
    from medssl.cli.selection import choose_run, scan_in
    from medssl.core.export.files import check_ending
    from medssl.core.labels.postprocess import Postprocessing
    from medssl.core.project.project import Project

    opened, ending = Project.open(project), check_ending(ending)
    run = None if weights == NO_RUN else choose_run(opened, weights, ("finetune",)).id
    refusals = Refusals()
    postprocessing = Postprocessing(largest, drop_ml, fill_holes)
    chosen = tuple(scan_in(opened, scan) for scan in scans or [])
    refusals.count += write_scans(project, run, chosen, out, ending, device, postprocessing)
    refusals.end()


def write_scans(
    project: Path,
    run: str | None,
    scans: tuple[str, ...],
    out: Path,
    ending: str,
    device: str,
    postprocessing: Postprocessing | None = None,
) -> int:
    """Export scans and print the files; returns how many could not be written, their reasons were shown."""
    from medssl.core.jobs import ExportJob

    done = asdict(postprocessing) if postprocessing else {}
    job = ExportJob(
        project=str(project), device=device, folder=str(out), ending=ending, weights=run, scans=scans, **done
    )
    result = work(job)
    for path in result["written"]:
        typer.echo(path)
    return len(result["refused"])


class Refusals:
    """Says why scans are left out as it comes up, and ends a command with exit code 1 if any were."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, path: Path, error: UserError) -> None:
        """Show one sentence."""
        from rich.markup import escape

        from medssl.cli.terminal import console

        text = str(error) if str(path) in str(error) else f"{path}: {error}"
        console().print(f"[yellow]{escape(text)}", soft_wrap=True)
        self.count += 1

    def end(self) -> None:
        """Raises typer.Exit where something was left out."""
        from medssl.cli.terminal import console

        if self.count:
            left_out = f"{self.count} could not be used and were left out; the reasons stand above."
            console().print(f"[red]{left_out}")
            raise typer.Exit(1)


def work(job: Job) -> dict[str, Any]:
    """Run a job to its end; Ctrl-C ends the command, what is finished stays."""
    from medssl.cli.terminal import INTERRUPTED, console, run_job, stop_on_interrupt

    screen = console()
    with stop_on_interrupt(screen) as should_stop:
        result = run_job(job, screen, should_stop)
        if result["stopped"]:
            screen.print("Stopped; the scans that were finished are kept.")
            raise typer.Exit(INTERRUPTED)
    return result
