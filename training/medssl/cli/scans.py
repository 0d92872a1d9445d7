"""The command medssl scans: list, rename and remove the scans of a project."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from medssl.cli.options import ProjectArgument

if TYPE_CHECKING:
    from medssl.core.project.project import Project, Scan


def scans(
    project: ProjectArgument,
    rename: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="SCAN NAME", show_default=False, help="Rename a scan; its id stays."),
    ] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option(metavar="SCAN", show_default=False, help="Remove a scan; may be repeated."),
    ] = None,
) -> None:
    """List the scans of a project and what they weigh on the disk; rename or remove some.

    A scan is given by its id or its name. Scan files are never touched. What was annotated in a removed scan
    stays in the folder "removed" of the project and comes back when the scan is added again; predictions and
    features of it are deleted. Close the project in the viewer before you remove a scan.
    """
    from medssl.cli.terminal import console
    from medssl.core.project.project import Project
    from medssl.core.project.removal import remove_scan
    from medssl.core.project.window_lock import no_window

    opened, screen = Project.open(project), console()
    if rename is not None:
        scan, name = opened.scan_named(rename[0]), rename[1].strip()
        opened.rename_scan(scan.id, name)
        screen.print(f"Renamed {scan.title} to {name}; its id is still {scan.id}.", soft_wrap=True)
    chosen = {scan.id: scan for scan in map(opened.scan_named, remove or [])}
    if chosen:
        with no_window(opened.root):
            for scan in chosen.values():
                kept = remove_scan(opened, scan.id)
                rest = f"; its annotation is kept in {kept}" if kept else ""
                screen.print(f"Removed {scan.title}{rest}.", soft_wrap=True)
    _print_table(opened)


def _print_table(project: Project) -> None:
    from medssl.cli.terminal import console, plain_table
    from medssl.core.project.damage import survey
    from medssl.core.project.disk_usage import disk_usage, size_text
    from medssl.core.project.modality import modality_name

    state, usage, screen = survey(project), disk_usage(project), console(stderr=False)
    table = plain_table("scan", "voxels", "mm", "modality", "state", "on disk", right=["on disk"])
    for scan in project.scans.values():
        words = [
            "held out" * scan.held_out,
            "annotated" * (scan.id in state.annotated),
            "annotation damaged" * (scan.id in state.damaged),
        ]
        voxels, spacing = _size(scan)
        title = f"{scan.name} ({scan.id})" if scan.name else scan.id
        modalities = ", ".join(map(modality_name, scan.parts))
        row = (title, voxels, spacing, modalities, ", ".join(filter(None, words)))
        table.add_row(*row, size_text(usage.scans[scan.id]))
    screen.print(table)
    count = len(project.scans)
    scans = f"{count} scan{'s' * (count != 1)}"
    screen.print(f"{project.root}: {scans}, {size_text(usage.total)} on the disk.", soft_wrap=True)


def _size(scan: Scan) -> tuple[str, str]:
    """Voxels and spacing along x, y, z."""
    geometry = scan.geometry
    voxels = " x ".join(map(str, reversed(geometry.shape_zyx)))
    return voxels, " x ".join(f"{mm:.3g}" for mm in reversed(geometry.spacing_mm))
