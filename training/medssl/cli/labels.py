"""Label files on the command line: paired with the scans of a project, imported, and what was left out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from medssl.cli.terminal import warn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from medssl.core.labels.import_files import Completeness, ImportedFile
    from medssl.core.labels.pairing import Pairs
    from medssl.core.project.project import Project

MAX_NAMED = 3
"""Number of scans and files that a message names; the others are counted."""


def import_labels(project: Project, folder: Path, complete: Completeness, screen: Console) -> int:
    """Import the label files in a folder that belong to scans of a project, and print what was done.

    Args:
        project: The project.
        folder: Folder of label files.
        complete: Slices that become complete.
        screen: Console for messages.

    Returns:
        Number of label files or scans that were left out because of an error.
    """
    from rich.progress import track

    from medssl.core.errors import UserError
    from medssl.core.labels.import_files import import_files

    pairs = project_pairs(project, folder)
    refused = len(pairs.ambiguous)
    report_pairs(pairs, project.titles, screen)

    def refuse(path: Path, error: UserError) -> None:
        nonlocal refused
        refused += error.code != "annotated"
        warn(screen, str(error))

    def progress(scans: Iterable[str]) -> Iterable[str]:
        return track(list(scans), "Reading labels", console=screen, disable=not screen.is_terminal)

    before = {item.id: item.name for item in project.classes}
    imported = import_files(project, pairs.files, complete, refuse, progress)
    typer.echo(_summary(imported, complete))
    new = [item.name for item in project.classes if before.get(item.id) != item.name]
    if new:
        typer.echo(f"New classes: {', '.join(new)}.")
    report_notes({item.scan_id: item.notes for item in imported}, project.titles, screen)
    return refused


def project_pairs(project: Project, folder: Path) -> Pairs:
    """Pair the label files in a folder with the scans of a project.

    Raises:
        UserError: "missing" if no file can be paired.
    """
    from medssl.core.errors import UserError
    from medssl.core.labels.pairing import pair_labels

    scans = project.scans.values()
    names = {scan.id: scan.name for scan in scans if scan.name}
    further = [Path(channel.source) for scan in scans for channel in scan.channels]
    sources = {scan.id: Path(scan.source) for scan in scans}
    pairs = pair_labels(sources, folder, names, {scan.id: scan.channel for scan in scans}, further)
    if not pairs.files:
        reasons = list(dict.fromkeys(pairs.ambiguous.values()))
        if reasons:
            raise UserError(reasons[0], code="ambiguous")
        raise UserError(
            f"{folder} has no label file named like a scan of {project.root}; name each label file as its "
            "scan's file.",
            code="missing",
        )
    return pairs


def report_pairs(pairs: Pairs, titles: dict[str, str], screen: Console) -> None:
    """Print what could not be paired; `titles` has the names of the scans by their ids."""
    for sentence in dict.fromkeys(pairs.ambiguous.values()):
        warn(screen, sentence)
    if pairs.missing:
        screen.print(f"No label file: {listed(titles[scan] for scan in pairs.missing)}.", soft_wrap=True)
    if pairs.unused:
        names = listed([str(path) for path in pairs.unused])
        warn(screen, f"No scan of this name: {names}.")


def report_notes(notes: dict[str, tuple[str, ...]], titles: dict[str, str], screen: Console) -> None:
    """Print the notes about label files, {scan id: notes}; one about many is printed once."""
    for note in Counter(note for each in notes.values() for note in each):
        names = listed([titles[scan] for scan, each in notes.items() if note in each])
        screen.print(f"{names}: {note}.", soft_wrap=True)


def listed(names: Iterable[str]) -> str:
    """The first names, and the number of the others: "a, b, c and 4 more"."""
    names = list(names)
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _summary(imported: list[ImportedFile], complete: Completeness) -> str:
    references = sum(item.is_reference for item in imported)
    annotations, slices = len(imported) - references, sum(item.complete for item in imported)
    text = f"Imported {annotations} annotation{'s' if annotations != 1 else ''}"
    if references:
        text += f" and the reference labels of {references} held-out scan{'s' if references != 1 else ''}"
    if not annotations:
        return f"{text}."
    return f"{text}; {slices} slices are complete (--complete {complete})."
