"""The commands medssl init, run and doctor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medssl.cli.options import ModalityOption, OnOption, names_in

if TYPE_CHECKING:
    from rich.console import Console

    from medssl.core.io.scan_file import ScanFile, SearchResult
    from medssl.core.project.project import Project, Scan


def init(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="PROJECT", show_default=False, help="Project folder to create or to add scans to."
        ),
    ],
    scans: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SCANS",
            show_default=False,
            help="Scan files (NIfTI, NRRD, MHA, MGZ), DICOM folders, or folders that contain these.",
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            show_default=False,
            help="Classes to segment, e.g. --classes liver,spleen. Those that the project has stay as they "
            "are; medssl classes renames and removes.",
        ),
    ] = None,
    hold_out: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            show_default=False,
            help="Hold scans out of all training, for testing: a pattern of file names such as 'test_*', "
            "also of scans in the project; may be repeated.",
        ),
    ] = None,
    no_hold_out: Annotated[
        list[str] | None,
        typer.Option(
            "--no-hold-out",
            metavar="PATTERN",
            show_default=False,
            help="Use scans of the project for training again; may be repeated.",
        ),
    ] = None,
    modality: ModalityOption = "",
    channels: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            show_default=False,
            help="Take several images as one scan: --channels t1,t2 takes p1_t1.nii.gz and p1_t2.nii.gz "
            "together, or files in folders of these names; the first defines the grid. nnU-Net's _0000 and "
            "_0001 are taken together without it.",
        ),
    ] = None,
    volumes: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBERS",
            show_default=False,
            help="Of 4D files take these volumes, numbered from 0, e.g. --volumes 0,2: each is a channel; a "
            "single one is the scan.",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            show_default=False,
            help="Import the label files in this folder as annotations; those of held-out scans become their "
            "reference labels. A label file is named like its scan, with or without _seg or _label.",
        ),
    ] = None,
    complete: Annotated[
        Literal["labelled", "ends", "all", "none"],
        typer.Option(
            help="Slices of the label files in which unlabelled voxels are background: those with labels, "
            "also the empty ones beyond both ends of them, all, or none."
        ),
    ] = "labelled",
) -> None:
    """Create a project folder from scans, or add scans and labels to an existing one.

    Scan files are never modified. Channels of a scan on another grid than
    its first one are resampled. Files that cannot be used are reported and skipped.
    --modality also corrects scans that the project has already: name their files again.
    """
    from medssl.cli.labels import import_labels
    from medssl.cli.modality import check_requested, settle
    from medssl.cli.terminal import console, warn
    from medssl.core.errors import UserError
    from medssl.core.labels.classes import add_classes
    from medssl.core.project.names import check_class_name
    from medssl.core.project.project import Project, is_project
    from medssl.core.project.removal import remove_empty

    if folder.is_file():
        raise UserError(
            f"{folder} is a file; give the folder of the project first, then the scans.", code="not-a-project"
        )
    if both := sorted({*(hold_out or [])} & {*(no_hold_out or [])}):
        raise UserError(
            f"{both[0]!r} cannot be held out and used for training; give it once.", code="bad-option"
        )
    names = names_in(classes)
    for name in names:
        check_class_name(name)
    screen = console()
    found = _find(scans or [], names_in(channels), volumes, labels, screen)
    check_requested(modality, found.scans)
    known = Project.open(folder).scans.values() if is_project(folder) else ()
    names_of_scans = [name for scan in found.scans for name in (scan.path.name, scan.name)]
    names_of_scans += [name for scan in known for name in _names(scan)]
    _check_patterns([*(hold_out or []), *(no_hold_out or [])], names_of_scans)
    is_new, existed = not is_project(folder), folder.exists()
    project = Project.create(folder, or_open=True)
    project.on_notice = lambda text: warn(screen, text)
    try:
        add_classes(project, names)  # before scans are read: there may be no ids left
    except UserError:
        if is_new:
            remove_empty(project, with_folder=not existed)
        raise
    former = dict(project.scans)
    refused = found.missing + _add(project, found.scans, hold_out or [], modality, screen)
    if is_new and found.scans and not project.scans:
        remove_empty(project, with_folder=not existed)
        raise UserError(f"No scan could be used, so {folder} was not made a project.", code="no-scans")
    settle(project, former, screen)
    _hold_out(project, hold_out or [], True)
    _hold_out(project, no_hold_out or [], False)
    _describe(project, folder, screen)
    refused_labels = import_labels(project, labels, complete, screen) if labels else 0
    if refused:
        screen.print(f"Skipped {refused} of the scans; see the messages above.", style="red")
    if refused_labels:
        screen.print(f"Left out the labels of {refused_labels} scans; see the messages above.", style="red")
    if refused or refused_labels:
        raise typer.Exit(1)


def _find(
    paths: Sequence[Path],
    channels: Sequence[str],
    volumes: str | None,
    labels: Path | None,
    screen: Console,
) -> SearchResult:
    """The scans at these paths, without those in the folder of labels, and how many paths have none."""
    from medssl.cli.terminal import scans_among
    from medssl.core.errors import UserError
    from medssl.core.io.channel_files import choose_volumes, volume_numbers
    from medssl.core.io.scan_file import SearchResult
    from medssl.core.labels.pairing import label_files

    if labels:
        label_files(labels)  # says what is wrong with them before any work is done
    numbers = volume_numbers(volumes) if volumes else []
    found = scans_among(paths, screen, () if numbers else channels) if paths else SearchResult((), ())
    scans = found.scans
    if numbers:
        scans = tuple(choose_volumes(scan, numbers, channels) for scan in scans)
    if labels and labels not in paths:
        folder = labels.resolve()
        scans = tuple(scan for scan in scans if folder not in scan.path.resolve().parents)
        if found.scans and not scans:
            raise UserError(
                f"All of these scans lie in {labels}, the folder of labels; give scans in another folder.",
                code="no-scans",
            )
    return replace(found, scans=scans)


def _describe(project: Project, folder: Path, screen: Console) -> None:
    """Print modalities, channels, what is left out, and the number of scans of the project in a folder."""
    from medssl.cli.modality import modality_lines
    from medssl.cli.terminal import warn
    from medssl.core.project.channels import channel_names, left_out
    from medssl.tasks.plan.channels import in_words

    scans = project.scans.values()
    for line in modality_lines(scans):
        typer.echo(line)
    channels = channel_names(scans)
    if channels:
        typer.echo(f"Channels: {in_words(channels)}.")
    if lacking := left_out(scans, channels):
        warn(screen, lacking)
    held_out = sum(scan.held_out for scan in scans)
    typer.echo(f"{folder}: {len(scans)} scan{'s' if len(scans) != 1 else ''}, {held_out} held out.")


def _names(scan: Scan) -> tuple[str, ...]:
    """Names by which a pattern finds a scan of the project: of its file, its id, and what it was called."""
    return Path(scan.source).name, scan.id, scan.title


def _check_patterns(patterns: list[str], names: list[str]) -> None:
    """Refuse a pattern that matches none of these scans: it is probably misspelt."""
    from medssl.core.errors import UserError

    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            raise UserError(
                f"No scan has a file name like {pattern!r}; write it as in 'test_*', or leave it out.",
                code="no-match",
            )


def _hold_out(project: Project, patterns: list[str], held_out: bool) -> None:
    """Apply patterns to all scans of the project, and print how many they matched."""
    for pattern in patterns:
        matched = [
            scan for scan in project.scans.values() if any(fnmatch(name, pattern) for name in _names(scan))
        ]
        for scan in matched:
            if scan.held_out != held_out:
                project.hold_out(scan.id, held_out)
        scans = f"{len(matched)} scan{'s' if len(matched) != 1 else ''}"
        typer.echo(f"{pattern}: {scans} {'held out of training' if held_out else 'used for training'}.")


def _add(
    project: Project, scans: Sequence[ScanFile], hold_out: list[str], modality: str, screen: Console
) -> int:
    """Add scans; returns the number of scans that could not be used, without masks."""
    from rich.progress import track

    from medssl.cli.terminal import warn
    from medssl.core.errors import UserError
    from medssl.core.io.masks import MASK
    from medssl.core.project.adding import STOPS, add_scan_file

    refused = 0

    def refuse(error: UserError) -> None:
        nonlocal refused
        warn(screen, str(error))
        refused += error.code != MASK

    for scan in track(scans, "Reading scans", console=screen, disable=not screen.is_terminal):
        held_out = any(fnmatch(name, pattern) for pattern in hold_out for name in (scan.path.name, scan.name))
        try:
            added = add_scan_file(project, scan, refuse, held_out, modality)
        except UserError as error:
            if error.code in STOPS:
                raise
            refuse(error)
            continue
        for part in added.parts:
            for note in part.notes:
                warn(screen, f"{part.source}: {note}")
    return refused


def run(
    job: Annotated[
        Path,
        typer.Argument(
            metavar="JOB",
            show_default=False,
            help='Job file (JSON); "-" reads its path from standard input.',
        ),
    ],
    on: OnOption = "",
) -> None:
    """Run a job file, with events as JSON lines on standard output.

    For programs: the viewer runs the engine this way. A line "stop" on
    standard input, or its end, stops the job after the current step and
    writes a checkpoint (under torchrun or SLURM its end means nothing, and
    SIGTERM stops). A line `show {"scan": ..., "axis": ..., "index": ...}`
    requests previews of that slice. With --on, the end of standard input
    leaves a job that has begun on the other computer going.
    """
    from medssl import worker

    raise typer.Exit(worker.run(job, on))


def doctor(
    project: Annotated[
        Path | None,
        typer.Argument(
            metavar="PROJECT",
            show_default=False,
            help="Show the training plan for the scans of this project.",
        ),
    ] = None,
) -> None:
    """Print versions, devices, free memory, and the training plan for this machine."""
    from medssl.cli.doctor import report
    from medssl.cli.terminal import console

    report(console(stderr=False), project)
