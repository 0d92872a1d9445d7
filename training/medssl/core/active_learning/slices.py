"""Candidate slices of a project: which ones are sampled, which are annotated, and their content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from medssl.core.project.project import Annotation, Project

MIN_PER_SCAN = 16
"""Slices sampled per scan when there are too many to sample all."""
MIN_TOTAL, MAX_TOTAL = 64, 1500
"""Slices sampled in all: enough to choose from, and few enough for a matrix of all pairs."""
THUMBNAIL = 12
"""Rows and columns of a slice that is compared by its grey values."""
EMPTY = 0.05
"""Slices with a lower contrast, relative to the best slice of their scan, are regarded as air."""


@dataclass(frozen=True)
class Suggestion:
    """A slice to annotate next, with the reason in one sentence."""

    scan: str
    axis: int
    """Canonical axis across the slice: 0 axial, 1 coronal, 2 sagittal."""
    index: int
    reason: str
    expected_error_mm2: float
    """Area that the network is expected to segment wrongly; 0 without a fine-tuned network."""
    novelty: float
    """1 if the slice resembles no annotated slice, 0 if it equals one."""


@dataclass(frozen=True)
class ScoredSlices:
    """Properties of n sampled slices of one scan."""

    scan: str
    indices: np.ndarray
    """(n,) along the canonical axis across the slices."""
    position_mm: np.ndarray
    """(n,) along that axis."""
    reach_mm: float
    """Slices of the scan that are closer than this are regarded as similar."""
    vectors: np.ndarray
    """(n, F) float32 features, comparable only between the scans of one job."""
    expected_error_mm2: np.ndarray | None
    """(n,) area that the network is expected to segment wrongly; None without a fine-tuned network."""
    between: np.ndarray
    """(n, 2) indices of the classes (0 background) that the network confuses most; zeros without a
    network."""
    empty: np.ndarray
    """(n,) bool: the slice contains only air."""
    painted: np.ndarray
    """(n,) bool: the slice is annotated."""
    complete: np.ndarray
    """(n,) bool: the slice is complete."""


def sample(
    project: Project, scans: Sequence[str], axis: int, pixels: int, generator: np.random.Generator
) -> Iterator[tuple[str, np.ndarray]]:
    """Sample candidate slices until about `pixels` pixels are reached, annotated scans first.

    All slices of all scans are sampled if they are few enough; otherwise evenly spaced slices of as many
    randomly drawn scans as possible. Annotated slices of these scans are always included.

    Args:
        axis: Canonical axis across the slices.
        pixels: Number of pixels of all slices together.

    Yields:
        Scan id and indices of its slices, (n,), ascending.
    """
    shapes = {scan: project.scans[scan].geometry.shape_zyx for scan in scans}
    areas = {scan: int(np.prod(shape)) // max(shape[axis], 1) for scan, shape in shapes.items()}
    total = int(np.clip(pixels // max(int(np.median(list(areas.values()))), 1), MIN_TOTAL, MAX_TOTAL))
    per_scan = max(MIN_PER_SCAN, total // len(scans))
    annotated_scans = set(project.annotated())
    order = [scans[number] for number in generator.permutation(len(scans))]
    remaining = total
    for scan in sorted(order, key=lambda scan: scan not in annotated_scans):
        if remaining <= 0:
            return
        length = shapes[scan][axis]
        even = np.arange(length)
        if length > per_scan:
            even = np.floor((np.arange(per_scan) + generator.random()) * length / per_scan).astype(int)
        annotation = project.annotation(scan)
        annotated = np.flatnonzero(painted_slices(annotation, axis)) if annotation else even[:0]
        indices = np.union1d(even, annotated)
        remaining -= len(indices)
        yield scan, indices


def painted_slices(annotation: Annotation, axis: int) -> np.ndarray:
    """Slices across `axis` that are complete or contain annotated voxels.

    Slices that are complete along another axis cross all of these and are therefore ignored.

    Returns:
        bool (length,).
    """
    strokes = annotation.labels != 0
    for other, index in annotation.complete:
        if other != axis:
            strokes[(slice(None),) * other + (index,)] = False
    annotated = strokes.any(axis=tuple(other for other in range(3) if other != axis))
    annotated[complete_slices(annotation, axis)] = True
    return annotated


def complete_slices(annotation: Annotation | None, axis: int) -> list[int]:
    """Indices of the complete slices across `axis`."""
    return [index for other, index in annotation.complete if other == axis] if annotation else []


def stack(image_zyx: np.ndarray, axis: int, indices: np.ndarray) -> Iterator[np.ndarray]:
    """Read slices one by one, because scans are memory maps.

    Args:
        image_zyx: Scan in canonical order (Z, Y, X).
        axis: Canonical axis across the slices.
        indices: Slices to read, (n,).

    Yields:
        float32 (rows, columns).
    """
    for index in indices:
        yield np.asarray(image_zyx[(slice(None),) * axis + (int(index),)], dtype=np.float32)


def grey_vectors(slices: Iterator[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Features of slices without a network.

    Args:
        slices: Grey values, float32 (rows, columns) each.

    Returns:
        Thumbnails of THUMBNAIL x THUMBNAIL pixels as vectors, float32 (n, F), and the standard deviation of
        each slice, float32 (n,).
    """
    thumbnails, contrast = [], []
    for pixels in slices:
        rows, columns = (averaging_matrix(length, THUMBNAIL) for length in pixels.shape)
        thumbnails.append((rows @ pixels @ columns.T).ravel())
        contrast.append(pixels.std())
    return np.array(thumbnails, np.float32), np.array(contrast, np.float32)


def averaging_matrix(length: int, cells: int) -> np.ndarray:
    """Matrix, float32 (cells, length), that averages a line of pixels within `cells` equal intervals."""
    edges = np.linspace(0, length, cells + 1)
    pixel = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    weights = np.clip(overlap, 0, None)
    result: np.ndarray = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return result


def is_empty(contrast: np.ndarray) -> np.ndarray:
    """Slices that contain only air.

    Args:
        contrast: Contrast of the slices of one scan, (n,).

    Returns:
        bool (n,).
    """
    empty: np.ndarray = contrast < EMPTY * contrast.max(initial=0.0)
    return empty
