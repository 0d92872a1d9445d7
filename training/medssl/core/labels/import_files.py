"""Import of label files into the annotations of a project's scans, many at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from medssl.core.errors import UserError
from medssl.core.io.label_names import LabelTable
from medssl.core.io.labels import read_labels
from medssl.core.labels.class_ids import assign_ids, map_values
from medssl.core.labels.classes import used_ids
from medssl.core.labels.import_mask import Completeness, complete_slices, slice_axis
from medssl.core.project.annotation import Annotation
from medssl.core.project.project import LabelClass, Project

Described = tuple[list[int], LabelTable]
"""The values of a label file, and what it says of them."""


@dataclass(frozen=True)
class ImportedFile:
    """What became of a label file.

    Attributes:
        scan_id: The scan.
        path: The label file.
        is_reference: It is the reference labels of a held-out scan, otherwise an annotation.
        complete: Number of slices that were marked complete.
        notes: What was done to its content.
    """

    scan_id: str
    path: Path
    is_reference: bool
    complete: int
    notes: tuple[str, ...]


def import_files(
    project: Project,
    files: Mapping[str, Path],
    complete: Completeness,
    refuse: Callable[[Path, UserError], object],
    track: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> list[ImportedFile]:
    """Import label files: as annotations, or as reference labels of scans that are held out.

    Scans that are annotated already are left as they are. Classes are assigned for all files together before
    any annotation is written, so that a number means the same in all of them.

    Args:
        project: The project; it gets the classes that it lacks.
        files: {scan id: label file}.
        complete: Slices that become complete.
        refuse: Called for each file that cannot be used, with the reason.
        track: Wraps the scan ids of each of the two passes, to show progress.

    Raises:
        UserError: "read-only", "too-many", "disk-full", "not-writable".
    """
    described: dict[str, Described] = {}
    annotated = set(project.annotated())
    for scan_id in track(files):
        path = files[scan_id]
        try:
            if scan_id in annotated:
                raise UserError(
                    f"{project.scans[scan_id].title} is annotated already, so {path} was not imported; "
                    "import it in the viewer to add its labels to that annotation.",
                    code="annotated",
                )
            labels = read_labels(path, project.scans[scan_id].geometry)
        except UserError as error:
            refuse(path, error)
        else:
            described[scan_id] = (labels.values(), labels.table)
    ids = assign_classes(project, files, described)
    imported = []
    for scan_id in track(described):
        labels = read_labels(files[scan_id], project.scans[scan_id].geometry)
        if project.scans[scan_id].held_out:
            project.set_reference(scan_id, files[scan_id])
            imported.append(ImportedFile(scan_id, files[scan_id], True, 0, labels.notes))
            continue
        axis = slice_axis(project.scans[scan_id].geometry)
        slices = tuple(sorted(complete_slices(labels.array, axis, complete)))
        project.save_annotation(scan_id, Annotation(map_values(labels.array, ids[scan_id]), slices))
        imported.append(ImportedFile(scan_id, files[scan_id], False, len(slices), labels.notes))
    return imported


def assign_classes(
    project: Project, files: Mapping[str, Path], described: Mapping[str, Described]
) -> dict[str, dict[int, int]]:
    """The classes of the values in label files; adds those that the project lacks.

    Args:
        project: The project.
        files: {scan id: label file}, for messages.
        described: {scan id: what the file holds}.

    Returns:
        {scan id: {value: class id}}.

    Raises:
        UserError: "read-only", "too-many", "disk-full", "not-writable".
    """
    reserved = {value for values, table in described.values() for value in values if value not in table.names}
    ids: dict[str, dict[int, int]] = {}
    used = used_ids(project)  # before the lock is taken: it reads annotations

    def add(known: tuple[LabelClass, ...]) -> tuple[LabelClass, ...]:
        classes = {item.id: item for item in known}
        for scan_id, (values, table) in described.items():
            now = tuple(classes.values())
            assigned = assign_ids(str(files[scan_id]), values, table, now, reserved, used)
            classes |= {new.id: new for new in assigned.classes}
            ids[scan_id] = assigned.ids
        return tuple(classes.values())

    project.change_classes(add)
    return ids
