"""Slices of a project as things to choose among: which are looked at, which are painted, what is in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from medssl.core.project.project import Annotation, Project

FEWEST_A_SCAN = 16
"""Slices looked at in a scan where there are too many scans to look at all slices of all."""
FEWEST, MOST = 64, 1500
"""Slices looked at in all: enough to choose among, and a table of all pairs still fits anywhere."""
THUMBNAIL = 12
"""Pixels along each side of a slice that is compared by its grey values."""
EMPTY = 0.05
"""A slice of less contrast than this share of its scan's best slice holds nothing but air."""


@dataclass(frozen=True)
class Suggestion:
    """A slice that is worth painting, and one sentence that says why."""

    scan: str
    axis: int
    """Canonical axis across the slice: 0 axial, 1 coronal, 2 sagittal."""
    index: int
    reason: str
    expected_error_mm2: float
    """Area of which the network is expected to be wrong; 0 without a fine-tuned network."""
    novelty: float
    """1 where nothing painted looks like it, 0 where something does."""


@dataclass(frozen=True)
class ScoredSlices:
    """What was seen in n slices of one scan. indices: (n,) along the canonical axis across slices."""

    scan: str
    indices: np.ndarray
    position_mm: np.ndarray
    """(n,) along that axis."""
    reach_mm: float
    """Slices of the scan that are closer than this look alike anyway."""
    vectors: np.ndarray
    """(n, F) float32: what the slices look like, comparable between the scans of one job only."""
    expected_error_mm2: np.ndarray | None
    """(n,) area of which the network is expected to be wrong; None without a fine-tuned network."""
    between: np.ndarray
    """(n, 2) numbers of the classes (0 background) that it mixes up most; zeros without one."""
    empty: np.ndarray
    """(n,) bool: nothing but air."""
    painted: np.ndarray
    """(n,) bool: somebody painted there."""
    complete: np.ndarray
    """(n,) bool: nothing is left to paint."""


def sample(
    project: Project, scans: Sequence[str], axis: int, pixels: int, generator: np.random.Generator
) -> Iterator[tuple[str, np.ndarray]]:
    """(scan, indices of slices to look at), painted scans first, until about `pixels` pixels are reached.

    All slices of all scans where they are few enough; else slices at even distances, in as many scans as
    possible, drawn by chance. Painted slices are always among them.
    """
    shapes = {scan: project.scans[scan].geometry.shape_zyx for scan in scans}
    areas = {scan: int(np.prod(shape)) // max(shape[axis], 1) for scan, shape in shapes.items()}
    total = int(np.clip(pixels // max(int(np.median(list(areas.values()))), 1), FEWEST, MOST))
    share = max(FEWEST_A_SCAN, total // len(scans))
    known = set(project.annotated())
    order = [scans[number] for number in generator.permutation(len(scans))]
    left = total
    for scan in sorted(order, key=lambda scan: scan not in known):
        if left <= 0:
            return
        length = shapes[scan][axis]
        even = np.arange(length)
        if length > share:
            even = np.floor((np.arange(share) + generator.random()) * length / share).astype(int)
        annotation = project.annotation(scan)
        painted = np.flatnonzero(painted_slices(annotation, axis)) if annotation else even[:0]
        indices = np.union1d(even, painted)
        left -= len(indices)
        yield scan, indices


def painted_slices(annotation: Annotation, axis: int) -> np.ndarray:
    """(length,) bool: slices across `axis` that are complete, or have strokes of their own.

    A slice that is complete along another axis crosses all of these and makes none of them painted.
    """
    strokes = annotation.labels != 0
    for other, index in annotation.complete:
        if other != axis:
            strokes[(slice(None),) * other + (index,)] = False
    painted = strokes.any(axis=tuple(other for other in range(3) if other != axis))
    painted[complete_slices(annotation, axis)] = True
    return painted


def complete_slices(annotation: Annotation | None, axis: int) -> list[int]:
    """Indices of the complete slices across `axis`."""
    return [index for other, index in annotation.complete if other == axis] if annotation else []


def stack(image_zyx: np.ndarray, axis: int, indices: np.ndarray) -> Iterator[np.ndarray]:
    """The slices (rows, columns) float32, one after the other: scans are memory maps."""
    for index in indices:
        yield np.asarray(image_zyx[(slice(None),) * axis + (int(index),)], dtype=np.float32)


def grey_vectors(slices: Iterator[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(n, F) thumbnails of slices, and their (n,) contrast: what can be said without a network."""
    thumbnails, contrast = [], []
    for pixels in slices:
        rows, columns = (averaging(length, THUMBNAIL) for length in pixels.shape)
        thumbnails.append((rows @ pixels @ columns.T).ravel())
        contrast.append(pixels.std())
    return np.array(thumbnails, np.float32), np.array(contrast, np.float32)


def averaging(length: int, cells: int) -> np.ndarray:
    """(cells, length) matrix that takes the mean of a line in `cells` equal parts."""
    edges = np.linspace(0, length, cells + 1)
    pixel = np.arange(length)
    inside = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    weights = np.clip(inside, 0, None)
    result: np.ndarray = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return result


def is_empty(contrast: np.ndarray) -> np.ndarray:
    """(n,) bool: slices of one scan that hold nothing but air."""
    empty: np.ndarray = contrast < EMPTY * contrast.max(initial=0.0)
    return empty
