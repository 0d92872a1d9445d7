"""Reassign the annotated voxels of a class to another one, which is done before a class is deleted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from medssl.core.project.annotation import Annotation
from medssl.core.project.project import Project
from medssl.core.ranges import describe_ranges

NAMED_SCANS, NAMED_RANGES = 3, 5
"""Number of scans and ranges of slices that a message names; the others are counted."""


def annotated_slices(project: Project, class_id: int) -> dict[str, list[int]]:
    """{scan id: indices of axial slices in which the class is annotated}; reads all annotations."""
    slices_by_scan = {}
    for scan in project.annotated(held_out=True):
        annotation = project.annotation(scan)
        if annotation is not None:
            slices = np.flatnonzero((annotation.labels == class_id).any((1, 2))).tolist()
            if slices:
                slices_by_scan[scan] = slices
    return slices_by_scan


def relabelled(annotation: Annotation, class_id: int, new_id: int) -> Annotation:
    """A copy of an annotation with one class replaced.

    Args:
        new_id: Class id that replaces `class_id`; 0 makes the voxels not annotated. Complete slices that
            contain such voxels are then no longer complete, because their structure would become background.
    """
    mask = annotation.labels == class_id
    labels, complete = np.where(mask, np.uint8(new_id), annotation.labels), annotation.complete
    if new_id == 0:
        complete = tuple(item for item in complete if not mask.take(item[1], item[0]).any())
    interpolated = annotation.interpolated
    if interpolated is not None:
        interpolated = np.where(interpolated == class_id, np.uint8(new_id), interpolated)
    return replace(annotation, labels=labels, complete=complete, interpolated=interpolated)


def relabel(project: Project, scans: Sequence[str], class_id: int, new_id: int) -> None:
    """Apply `relabelled` to the annotations of scans and save them, each atomically."""
    for scan in scans:
        annotation = project.annotation(scan)
        if annotation is not None:
            project.save_annotation(scan, relabelled(annotation, class_id, new_id))


def describe(project: Project, slices_by_scan: Mapping[str, Sequence[int]]) -> str:
    """Format the result of `annotated_slices`: "scan-a (axial slices 3, 66-111) and 2 more scans"."""
    first = list(slices_by_scan.items())[:NAMED_SCANS]
    named = [f"{project.scans[scan].title} ({_slices(slices)})" for scan, slices in first]
    more = len(slices_by_scan) - len(named)
    return ", ".join(named) + (f" and {more} more scan{'s' if more > 1 else ''}" if more else "")


def _slices(slices: Sequence[int]) -> str:
    word = "axial slice" if len(slices) == 1 else "axial slices"
    return f"{word} {describe_ranges(slices, NAMED_RANGES)}"
