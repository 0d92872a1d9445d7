"""Where a class is painted in a project, and how its strokes become another's: before a class is deleted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from medssl.core.project.annotation import Annotation
from medssl.core.project.project import Project

NAMED_SCANS, NAMED_SLICES = 3, 5
"""So many are named in a sentence; the others are counted."""


def painted(project: Project, class_id: int) -> dict[str, list[int]]:
    """Axial slices with strokes of a class, by scan; reads all annotations."""
    slices_of = {}
    for scan in project.annotated(held_out=True):
        annotation = project.annotation(scan)
        if annotation is not None:
            slices = np.flatnonzero((annotation.labels == class_id).any((1, 2))).tolist()
            if slices:
                slices_of[scan] = slices
    return slices_of


def turned(annotation: Annotation, class_id: int, into: int) -> Annotation:
    """The annotation with a class's strokes as those of class `into`, or not annotated (0).

    A slice that loses strokes is no longer complete: its structure would become background.
    """
    its = annotation.labels == class_id
    labels, complete = np.where(its, np.uint8(into), annotation.labels), annotation.complete
    if into == 0:
        complete = tuple(place for place in complete if not its.take(place[1], place[0]).any())
    interpolated = annotation.interpolated
    if interpolated is not None:
        interpolated = np.where(interpolated == class_id, np.uint8(into), interpolated)
    return replace(annotation, labels=labels, complete=complete, interpolated=interpolated)


def turn(project: Project, scans: Sequence[str], class_id: int, into: int) -> None:
    """Rewrite annotations, each whole or not at all."""
    for scan in scans:
        annotation = project.annotation(scan)
        if annotation is not None:
            project.save_annotation(scan, turned(annotation, class_id, into))


def in_words(slices_of: Mapping[str, Sequence[int]]) -> str:
    """ "scan-a (axial slices 3, 4) and 2 more scans"."""
    named = [f"{scan} ({_slices(slices)})" for scan, slices in list(slices_of.items())[:NAMED_SCANS]]
    more = len(slices_of) - len(named)
    return ", ".join(named) + (f" and {more} more scan{'s' if more > 1 else ''}" if more else "")


def _slices(slices: Sequence[int]) -> str:
    named = ", ".join(map(str, slices[:NAMED_SLICES]))
    more = len(slices) - NAMED_SLICES
    word = "axial slice" if len(slices) == 1 else "axial slices"
    return f"{word} {named}" + (f" and {more} more" if more > 0 else "")
