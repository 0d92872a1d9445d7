"""The command medssl export: segmentations as files, with provenance records and a table of volumes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medssl.cli.options import (
    LAST,
    DeviceOption,
    FormatOption,
    OverwriteOption,
    ProjectArgument,
    WithNamesOption,
    not_negative,
)

if TYPE_CHECKING:
    from medssl.cli.refusals import Refusals
    from medssl.core.errors import UserError
    from medssl.core.jobs import ExportJob, Job
    from medssl.core.project.project import Project

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
    stl: Annotated[
        bool,
        typer.Option("--stl", help="Also write the surface of each class as STL: mm, LPS coordinates."),
    ] = False,
    overwrite: OverwriteOption = False,
    with_names: WithNamesOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Write segmentations: the annotation where there is one, the prediction elsewhere.

    Each segmentation has the grid of the scan's file. A record (JSON) next to it
    lists what produced it; volumes.csv has the volume of each class in each scan.
    Scans without a prediction by the present weights of this run are segmented
    first; scans that are annotated everywhere need none. Only earlier exports
    are replaced.
    """
    from medssl.cli.refusals import Refusals
    from medssl.cli.selection import scan_in
    from medssl.core.export.files import check_ending
    from medssl.core.jobs import ExportJob
    from medssl.core.project.project import Project

    opened, ending = Project.open(project), check_ending(ending)
    refusals = Refusals()
    chosen = refusals.resolve(scans or [], partial(scan_in, opened))
    job = ExportJob(
        project=str(project),
        device=device,
        folder=str(out),
        ending=ending,
        weights=_run(opened, weights, chosen),
        scans=chosen,
        largest=largest,
        drop_ml=drop_ml,
        fill_holes=fill_holes,
        overwrite=overwrite,
        with_names=with_names,
        stl=stl,
    )
    refusals.count += write_scans(job)
    refusals.end()


def _run(project: Project, weights: str, scans: tuple[str, ...]) -> str | None:
    """Id of the run that fills voxels without annotation; None if there is none and none is needed."""
    from medssl.cli.selection import choose_run
    from medssl.core.errors import UserError
    from medssl.core.export.files import fully_annotated

    if weights == NO_RUN:
        return None
    try:
        return choose_run(project, weights, ("finetune",)).id
    except UserError:
        wanted = set(scans or project.scans)
        if weights == LAST and wanted and wanted <= set(fully_annotated(project)):
            return None
        raise


def targets_in(
    project: Project, scans: tuple[str, ...], folder: Path, ending: str, overwrite: bool, refusals: Refusals
) -> tuple[str, ...]:
    """Those of some scans, or of all, whose segmentation can be written; says what is wrong with the others.

    Raises:
        UserError: None of them can be written, for one reason.
    """
    from medssl.cli.terminal import console, warn
    from medssl.core.export.files import FATAL
    from medssl.core.export.targets import usable_targets

    wanted = scans or tuple(project.scans)

    def refuse(error: UserError, *scan_ids: str) -> None:
        if error.code in FATAL or len(scan_ids) == len(wanted):
            raise error
        warn(console(), str(error))
        refusals.count += len(scan_ids)

    return tuple(usable_targets(project, wanted, folder, ending, overwrite, refuse))


def write_scans(job: ExportJob) -> int:
    """Export scans and print the paths of the files.

    Returns:
        Number of files that could not be written; the reasons have been printed.
    """
    result = work(job)
    for path in result["written"]:
        typer.echo(path)
    return len(result["refused"])


def work(job: Job, on: str = "") -> dict[str, Any]:
    """Run a job, here or on a host, with progress in the terminal and return its result.

    Raises:
        typer.Exit: after Ctrl-C; finished scans are kept.
    """
    from medssl.cli.terminal import INTERRUPTED, console, run_job, stop_on_interrupt

    screen = console()
    with stop_on_interrupt(screen) as should_stop:
        result = run_job(job, screen, should_stop, on)
        if result["stopped"]:
            screen.print("Stopped. Finished scans are kept.")
            raise typer.Exit(INTERRUPTED)
    return result
