"""The command medssl classes: list, rename and remove the classes of a project."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from medssl.cli.options import ProjectArgument

if TYPE_CHECKING:
    from medssl.core.labels.classes import Painted
    from medssl.core.project.project import Project

NOT_ANNOTATED = "none"


def classes(
    project: ProjectArgument,
    rename: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="OLD NEW", show_default=False, help="Rename a class; its id stays."),
    ] = None,
    remove: Annotated[
        str | None, typer.Option(metavar="NAME", show_default=False, help="Remove a class.")
    ] = None,
    into: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            show_default=False,
            help='Relabel what is annotated as the removed class as this class; "none" makes it not '
            "annotated (slices that lose labels are then no longer complete).",
        ),
    ] = None,
) -> None:
    """List the classes of a project with their ids and what is annotated; rename or remove one.

    A class is given by its name or its id. Annotations, predictions and exported files refer to a class by
    its id, which stays when it is renamed and is not given to another class later. medssl init PROJECT
    --classes adds classes. Close the project in the viewer before you remove a class.
    """
    from medssl.cli.terminal import console
    from medssl.core.errors import UserError
    from medssl.core.labels.classes import class_named, painted, rename_class
    from medssl.core.project.project import Project

    if remove is None and into is not None:
        raise UserError("--into says what becomes of a removed class; give --remove, too.", code="bad-option")
    opened = Project.open(project)
    annotated = painted(opened)
    screen = console()
    if rename is not None:
        item, name = class_named(opened, rename[0]), rename[1].strip()
        rename_class(opened, item.id, name)
        where = _painted(annotated.get(item.id))
        text = f"Renamed {item.name} to {name}; it keeps its id {item.id} and is {where}."
        screen.print(text, markup=False, soft_wrap=True)
    if remove is not None:
        screen.print(_remove(opened, remove, into, annotated), markup=False, soft_wrap=True)
        annotated = painted(opened)
    _print_table(opened, annotated)


def _remove(project: Project, name: str, into: str | None, annotated: dict[int, Painted]) -> str:
    """Remove a class and return what was done in one sentence."""
    from medssl.core.errors import UserError
    from medssl.core.labels.classes import check_removable, class_named, remove_class
    from medssl.core.labels.relabel import describe
    from medssl.core.project.window_lock import no_window

    item = class_named(project, name)
    check_removable(project)
    scans = annotated[item.id].slices_by_scan if item.id in annotated else {}
    if scans and into is None:
        raise UserError(
            f"{item.name} is annotated in {describe(project, scans)}; add --into with another class to "
            f"relabel that, or --into {NOT_ANNOTATED} to make it not annotated.",
            code="annotated",
        )
    target = class_named(project, into) if into not in (None, NOT_ANNOTATED) else None
    if target == item:
        raise UserError(
            f"{item.name} cannot become itself; give another class after --into.", code="same-name"
        )
    with no_window(project.root):
        remove_class(project, item.id, target.id if target else 0, list(scans))
    became = (
        f"; {_painted(annotated.get(item.id))}, now {target.name if target else 'not annotated'}"
        if scans
        else ""
    )
    return f"Removed {item.name} (id {item.id}){became}."


def _painted(entry: Painted | None) -> str:
    if entry is None:
        return "annotated nowhere"
    slices = sum(map(len, entry.slices_by_scan.values()))
    scans = len(entry.slices_by_scan)
    return (
        f"annotated in {entry.voxels:,} voxel{'s' * (entry.voxels != 1)} on {slices} axial "
        f"slice{'s' * (slices != 1)} of {scans} scan{'s' * (scans != 1)}"
    )


def _print_table(project: Project, annotated: dict[int, Painted]) -> None:
    from medssl.cli.terminal import console, plain_table

    table = plain_table("id", "class", "colour", "annotated", right=["id"])
    for item in project.classes:
        table.add_row(str(item.id), item.name, item.color, _painted(annotated.get(item.id)))
    for class_id in sorted(set(annotated) - {item.id for item in project.classes}):
        table.add_row(str(class_id), "(removed)", "", _painted(annotated[class_id]))
    console(stderr=False).print(table)
