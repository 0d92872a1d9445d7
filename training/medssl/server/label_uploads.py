"""Label files that clients submit: they become a part of the scan's annotation, slice by slice.

A label file does not say which slices somebody has looked at. So a slice with paint is taken as complete, and
one without says nothing: the annotation keeps what it has there, such as slices that were painted in napari.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medssl.core.errors import UserError
from medssl.core.io.label_names import LabelTable
from medssl.core.io.labels import read_labels
from medssl.core.labels.class_ids import known_ids, map_values
from medssl.core.labels.import_files import assign_classes
from medssl.core.labels.import_mask import slice_axis, values_in
from medssl.core.project.annotation import SURE_BACKGROUND, Annotation
from medssl.core.project.contents import Scan
from medssl.core.project.project import Project
from medssl.core.project.stroke_log import journal_file, journal_length
from medssl.core.project.window_lock import no_window
from medssl.server.class_numbers import names_by_value
from medssl.server.state import Server
from medssl.server.uploads import check_voxels

MAX_LAYERS = 16
"""Values of a label file for each voxel of its scan: a .seg.nrrd may have several layers."""
LABEL_FILE = "The label file"


@dataclass(frozen=True)
class Merged:
    """An annotation after an upload.

    Attributes:
        annotation: The annotation.
        changed: Indices of slices that the upload has changed, and completed.
    """

    annotation: Annotation
    changed: tuple[int, ...]


def submit_labels(server: Server, scan: Scan, path: Path, label_info: Any) -> tuple[int, ...]:
    """Take a label file over into the annotation of a scan; one is taken after the other.

    Args:
        server: The server.
        scan: The scan.
        path: The file, on the scan's grid.
        label_info: Names of its values, see `names_by_value`; a .seg.nrrd has its own.

    Returns:
        Indices of the slices that were changed, and completed.

    Raises:
        UserError: "locked" if a window has the project open, or strokes of one that has crashed are not in
            the annotation yet; "empty-mask", "bad-label-info", "too-large", BUSY, those of `read_labels`, and
            those of `Project.save_annotation`.
    """
    check_voxels(path, MAX_LAYERS * int(np.prod(scan.geometry.shape_zyx)))
    return server.with_volumes(lambda: _submit(server.project, scan, path, label_info))


def _submit(project: Project, scan: Scan, path: Path, label_info: Any) -> tuple[int, ...]:
    labels = read_labels(path, scan.geometry)
    values = values_in(LABEL_FILE, labels.array)
    with no_window(project.root):
        project.refresh()
        _check_journal(project, project.scan(scan.id))
        names = _named(labels.names, values) or names_by_value(label_info, values, project.classes)
        ids = _class_ids(project, scan, values, LabelTable(names, labels.colors))
        uploaded = map_values(labels.array, ids)
        merged = merge(project.annotation(scan.id), uploaded, slice_axis(scan.geometry))
        if merged.changed:
            project.save_annotation(scan.id, merged.annotation)
    return merged.changed


def merge(annotation: Annotation | None, uploaded: np.ndarray, axis: int) -> Merged:
    """Put the slices of a label map that have paint into an annotation, and complete them.

    Slices that the annotation has already, with the same labels, stay as they are, complete or not.

    Args:
        annotation: The annotation; None for none.
        uploaded: Class ids, uint8 (Z, Y, X).
        axis: Canonical axis across the slices.
    """
    before = annotation or Annotation(np.zeros_like(uploaded))
    labels, interpolated = before.labels.copy(), before.interpolated
    interpolated = None if interpolated is None else interpolated.copy()
    others = tuple(other for other in range(3) if other != axis)
    changed = []
    for index in np.flatnonzero(uploaded.any(axis=others)).tolist():
        plane = (slice(None),) * axis + (index,)
        known = labels[plane]
        if np.array_equal(np.where(known == SURE_BACKGROUND, 0, known), uploaded[plane]):
            continue
        labels[plane] = uploaded[plane]
        if interpolated is not None:
            interpolated[plane] = 0
        changed.append(index)
    complete = {*before.complete, *((axis, index) for index in changed)}
    return Merged(Annotation(labels, tuple(sorted(complete)), interpolated), tuple(changed))


def _named(names: dict[int, str], values: list[int]) -> dict[int, str]:
    """The names that a file gives to its values: to all of them, or to none."""
    if names and (unnamed := [value for value in values if value not in names]):
        raise UserError(
            f"The label file has the value {unnamed[0]}, which it does not name as it does others; name that "
            "segment, and submit again.",
            code="bad-label-info",
        )
    return names


def _class_ids(project: Project, scan: Scan, values: list[int], table: LabelTable) -> dict[int, int]:
    """{value: class id}; classes that the project does not have are added to it."""
    ids = known_ids(values, table, project.classes)
    if len(ids) == len(values):
        return ids  # without reading all annotations for ids that are taken
    described = {scan.id: (values, table)}
    return assign_classes(project, {scan.id: Path(LABEL_FILE)}, described)[scan.id]


def _check_journal(project: Project, scan: Scan) -> None:
    if journal_length(journal_file(project.root, scan.id)):
        raise UserError(
            f"{scan.title} has strokes in napari that are not saved yet; open it there first.", code="locked"
        )
