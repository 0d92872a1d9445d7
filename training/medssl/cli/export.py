"""The command medssl export: segmentations as files, with provenance records and a table of volumes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medssl.cli.options import LAST, DeviceOption, FormatOption, ProjectArgument, not_negative

if TYPE_CHECKING:
    from medssl.core.errors import UserError
    from medssl.core.jobs import Job
    from medssl.core.labels.postprocess import Postprocessing
    from medssl.core.project.contents import Scan

NO_RUN = "none"


def export(
    project: ProjectArgument,
    scans: Annotated[
        list[str] | None,
        typer.Argument(metavar="SCAN", show_default=False, help="Scans of the project (default: all)."),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", file_okay=False, show_default=False, help="Output folder.")
    ] = ...,  # type: ignore[assignment]  # marks a required option in typer
    ending: FormatOption = "nii.gz",
    weights: Annotated[
        str,
        typer.Option(
            metavar="RUN",
            help='Fine-tuning run that predicts the unannotated voxels; "last" is the newest, "none" exports '
            "annotations only.",
        ),
    ] = LAST,
    largest: Annotated[
        bool,
        typer.Option("--largest", help="Keep only the largest connected component of each predicted class."),
    ] = False,
    drop_ml: Annotated[
        float,
        typer.Option(
            "--drop-ml",
            metavar="ML",
            callback=not_negative,
            help="Remove predicted components smaller than this volume.",
        ),
    ] = 0.0,
    fill_holes: Annotated[
        bool, typer.Option("--fill-holes", help="Fill holes inside each predicted class.")
    ] = False,
    device: DeviceOption = "auto",
) -> None:
    """Write segmentations: the annotation where there is one, the prediction elsewhere.

    Each segmentation has the grid of the scan's file. A record (JSON) next to it
    lists what produced it; volumes.csv has the volume of each class in each scan.
    Scans without a prediction by the present weights of this run are segmented
    first.
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
    """Export scans and print the paths of the files.

    Args:
        project: project folder.
        run: id of the fine-tuning run; None exports annotations only.
        scans: scan ids; empty means all.
        out: output folder.
        ending: file ending such as ".nii.gz".
        device: device of predictions that are still missing.
        postprocessing: clean-up of the predictions; None for none.

    Returns:
        Number of scans that could not be written; the reasons have been printed.
    """
    from medssl.core.jobs import ExportJob

    cleanup = asdict(postprocessing) if postprocessing else {}
    job = ExportJob(
        project=str(project),
        device=device,
        folder=str(out),
        ending=ending,
        weights=run,
        scans=scans,
        **cleanup,
    )
    result = work(job)
    for path in result["written"]:
        typer.echo(path)
    return len(result["refused"])


class Refusals:
    """Reports scans that are skipped and remarks on others; exit code 1 if any besides masks was skipped."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, path: Path, error: UserError) -> None:
        """Print why a scan is skipped."""
        from rich.markup import escape

        from medssl.cli.terminal import console
        from medssl.core.io.masks import MASK

        text = str(error) if str(path) in str(error) else f"{path}: {error}"
        console().print(f"[yellow]{escape(text)}", soft_wrap=True)
        self.count += error.code != MASK

    def remark(self, path: Path, scan: Scan) -> None:
        """Print what was tolerated in the file of a scan, and which modality was assumed."""
        from rich.markup import escape

        from medssl.cli.terminal import console
        from medssl.core.project.modality import assumption

        for note in (*scan.notes, *filter(None, [assumption(scan)])):
            console().print(f"[yellow]{escape(f'{path}: {note}')}", soft_wrap=True)

    def end(self) -> None:
        """End the command.

        Raises:
            typer.Exit: with code 1 if scans were skipped.
        """
        from medssl.cli.terminal import console

        if self.count:
            console().print(f"[red]Skipped {self.count} of the scans; see the messages above.")
            raise typer.Exit(1)


def work(job: Job) -> dict[str, Any]:
    """Run a job with progress in the terminal and return its result.

    Raises:
        typer.Exit: after Ctrl-C; finished scans are kept.
    """
    from medssl.cli.terminal import INTERRUPTED, console, run_job, stop_on_interrupt

    screen = console()
    with stop_on_interrupt(screen) as should_stop:
        result = run_job(job, screen, should_stop)
        if result["stopped"]:
            screen.print("Stopped. Finished scans are kept.")
            raise typer.Exit(INTERRUPTED)
    return result
