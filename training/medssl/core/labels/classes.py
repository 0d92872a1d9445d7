"""Classes of a project: adding, renaming and removing them without giving an id a second meaning.

Annotations, predictions and networks refer to a class by its id. So a class keeps its id when it is renamed,
and the id of a removed class is not given to another one as long as something refers to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np

from medssl.core.errors import UserError
from medssl.core.labels.relabel import relabel
from medssl.core.palette import class_color
from medssl.core.project.annotation import SURE_BACKGROUND
from medssl.core.project.annotation_file import class_ids
from medssl.core.project.kept import kept_annotations
from medssl.core.project.project import LabelClass, Project

MAX_CLASSES = 254


@dataclass
class Painted:
    """Where a class is annotated."""

    voxels: int = 0
    slices_by_scan: dict[str, list[int]] = field(default_factory=dict)
    """{scan id: indices of axial slices}."""


def painted(project: Project) -> dict[int, Painted]:
    """{class id: where it is annotated}, also for ids without a class; reads all annotations."""
    painted: dict[int, Painted] = {}
    for scan in project.annotated(held_out=True):
        annotation = project.annotation(scan)
        if annotation is None:
            continue
        voxels = np.array([np.bincount(plane.ravel(), minlength=256) for plane in annotation.labels])
        for class_id in set(np.flatnonzero(voxels.any(0)).tolist()) - {0, SURE_BACKGROUND}:
            entry = painted.setdefault(class_id, Painted())
            entry.voxels += int(voxels[:, class_id].sum())
            entry.slices_by_scan[scan] = np.flatnonzero(voxels[:, class_id]).tolist()
    return painted


def used_ids(project: Project) -> set[int]:
    """Ids of the project's classes, and of removed ones that annotations or networks still refer to."""
    used = {item.id for item in project.classes}
    for run in project.runs():
        try:
            used |= {item["id"] for item in run.card.get("classes", [])}
        except UserError:
            continue  # a network with a damaged card cannot predict
    for scan in project.annotated(held_out=True):
        used |= project.annotated_ids(scan)
    for path in kept_annotations(project.root):
        with suppress(UserError):  # a damaged one cannot come back
            used |= class_ids(path)
    return used


def add_classes(project: Project, names: Sequence[str]) -> tuple[LabelClass, ...]:
    """Add a class for each name that the project does not have yet; existing classes stay as they are.

    Returns:
        The new classes; each has the smallest id that nothing refers to, and the colour of that id.

    Raises:
        UserError: "too-many" if no id is left, and those of `check_classes`.
    """
    if not names:
        return ()
    used = used_ids(project)  # before the lock is taken: it reads annotations
    added: tuple[LabelClass, ...] = ()

    def add(known: tuple[LabelClass, ...]) -> tuple[LabelClass, ...]:
        nonlocal added
        known_names = {item.name for item in known}
        new = [name for name in dict.fromkeys(names) if name not in known_names]
        taken = used | {item.id for item in known}
        free = [class_id for class_id in range(1, MAX_CLASSES + 1) if class_id not in taken]
        if len(new) > len(free):
            raise UserError(
                f"{project.root} has {len(free)} of {MAX_CLASSES} class ids left, and {len(new)} are needed; "
                "name fewer classes, remove some, or start a new project.",
                code="too-many",
            )
        added = tuple(
            LabelClass(number, name, class_color(number)) for number, name in zip(free, new, strict=False)
        )
        return (*known, *added)

    project.change_classes(add)
    return added


def add_structure(project: Project) -> LabelClass:
    """Add a class with a name such as "Structure 3"; reads all annotations, see `used_ids`.

    Raises:
        UserError: "too-many" if no id is left.
    """
    project.refresh()
    taken = {item.name for item in project.classes}
    numbered = (f"Structure {number}" for number in itertools.count(len(taken) + 1))
    name = next(text for text in numbered if text not in taken)
    (item,) = add_classes(project, [name]) or (class_named(project, name),)
    return item


def class_named(project: Project, name: str) -> LabelClass:
    """The class with a name or, if no name fits, an id.

    Raises:
        UserError: "no-class".
    """
    by_id = {str(item.id): item for item in project.classes}
    named = {**by_id, **{item.name: item for item in project.classes}}
    if name not in named:
        known = ", ".join(item.name for item in project.classes)
        raise UserError(
            f"{project.root} has no class {name!r}; it has {known or 'none yet'}.", code="no-class"
        )
    return named[name]


def rename_class(project: Project, class_id: int, name: str) -> None:
    """Give a class another name; id, colour, annotations and predictions stay.

    Raises:
        UserError: "same-name" if another class has that name, and those of `check_classes`.
    """

    def rename(known: tuple[LabelClass, ...]) -> list[LabelClass]:
        if any(item.name == name and item.id != class_id for item in known):
            raise UserError(
                f"{project.root} already has a class {name!r}; choose another name, or remove one of the two "
                "classes and relabel it as the other.",
                code="same-name",
            )
        return [replace(item, name=name) if item.id == class_id else item for item in known]

    project.change_classes(rename)


def remove_class(project: Project, class_id: int, into: int, scans: Sequence[str]) -> None:
    """Relabel the annotated voxels of a class, then remove it; predictions keep its id.

    Args:
        into: class id that its voxels get; 0 for not annotated (see `relabelled`).
        scans: ids of the scans in which it is annotated.

    Raises:
        UserError: "last-class" for the only class, "disk-full", "not-writable".
    """
    check_removable(project)
    relabel(project, scans, class_id, into)
    project.change_classes(lambda known: [item for item in known if item.id != class_id])


def check_removable(project: Project) -> None:
    """Refuse to remove the only class of a project.

    Raises:
        UserError: "last-class".
    """
    if len(project.classes) < 2:
        raise UserError("A project needs a class; rename this one instead.", code="last-class")
