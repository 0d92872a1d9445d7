"""Retrieval of a clicked point in the same or in another scan by its neighbourhood descriptor.

A single cell determines its position poorly: a 2.5D network sees three slices, and tissue extends over many
cells. The descriptor of a point therefore consists of the features of the point and of 12 rigid offsets along
the axes, and the score of a match is the mean cosine over these 13 cells. (The idea of neighbourhood
consensus, Rocco et al., NeurIPS 2018, without learned parameters.) On the hippocampus scans this matters more
than the choice of weights or levels; docs/benchmarks/landmarks.md has the numbers. Cells beyond the border of
a scan are replaced by the nearest one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from medssl.core.errors import UserError
from medssl.core.features.similarity import CELLS_AT_ONCE, FeatureCache, combine, open_features, query_at
from medssl.core.project.project import Project

RADII_MM = (5.0, 10.0)
"""Distances of the offsets from the point, along each axis in both directions."""
OFFSETS_MM = np.array(
    [(0.0, 0.0, 0.0)]
    + [
        tuple(sign * radius * (axis == other) for other in range(3))
        for radius in RADII_MM
        for axis in range(3)
        for sign in (-1, 1)
    ]
)
"""(13, 3) offsets along (z, y, x); the first is the point itself."""
COARSE_CELLS = 100_000
"""Scans with more cells are searched on a coarse grid first, and on the full grid only around its best
cells."""
CANDIDATES = 8
"""Cells of the coarse grid around which the full grid is searched."""


@dataclass(frozen=True)
class Point:
    """A clicked point of a scan: a positive example, or a negative one if `like` is False."""

    scan: str
    voxel_zyx: tuple[int, int, int]
    like: bool = True


@dataclass(frozen=True)
class Match:
    """The best match in a scan; `score` is the mean cosine over the neighbourhood, -1..1."""

    scan: str
    voxel_zyx: tuple[int, int, int]
    score: float


@dataclass(frozen=True)
class Query:
    """A query for retrieval.

    Attributes:
        descriptors: Unit vectors for each offset of OFFSETS_MM, float32 (13, F).
    """

    descriptors: np.ndarray

    @property
    def centre(self) -> np.ndarray:
        """Descriptor of the point itself, float32 (F,), from which similarity maps are computed."""
        centre: np.ndarray = self.descriptors[0]
        return centre


def neighbourhood_descriptor(cache: FeatureCache, voxel_zyx: Sequence[int]) -> np.ndarray:
    """Descriptor of a point and its neighbourhood.

    Args:
        voxel_zyx: Canonical voxel.

    Returns:
        Unit vectors for each offset of OFFSETS_MM, float32 (13, F).

    Raises:
        UserError: "outside".
    """
    cell = np.array(cache.cell_of(voxel_zyx))
    cells = np.clip(cell + _offset_cells(cache, 1), 0, np.array(cache.array.shape[:3]) - 1)
    vectors = cache.array[tuple(cells.T)].astype(np.float32)
    vectors[0] = query_at(cache, voxel_zyx)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def query_of(project: Project, run: str, points: Iterable[Point]) -> Query:
    """Query from points in one or several scans, combined as in `similarity.combine`.

    Raises:
        UserError: "no-features", "outside", "no-points", "same".

    Example:
        >>> query = query_of(project, "shapes", [Point("case-01", (30, 120, 96))])
        >>> matches = list(search(project, "shapes", query, project.scans))
    """
    descriptors: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for point in points:
        descriptors[point.like].append(
            neighbourhood_descriptor(open_features(project, point.scan, run), point.voxel_zyx)
        )
    return combine_descriptors(descriptors[True], descriptors[False])


def combine_descriptors(like: Sequence[np.ndarray], unlike: Sequence[np.ndarray] = ()) -> Query:
    """Combine descriptors of positive and negative points into one query, offset by offset.

    Args:
        like: Descriptors of positive points, float32 (13, F) each.
        unlike: Descriptors of negative points, float32 (13, F) each.

    Raises:
        UserError: "no-points", "same".
    """
    rows = [combine([descriptor[0] for descriptor in like], [descriptor[0] for descriptor in unlike])]
    for offset in range(1, len(OFFSETS_MM)):
        try:
            rows.append(
                combine(
                    [descriptor[offset] for descriptor in like], [descriptor[offset] for descriptor in unlike]
                )
            )
        except UserError:  # positive and negative points are the same at this offset, which is then ignored
            rows.append(np.zeros_like(rows[0]))
    return Query(np.stack(rows))


def search(project: Project, run: str, query: Query, scans: Iterable[str]) -> Iterator[Match]:
    """Yield the best match of each scan; scans without valid features are skipped."""
    for scan in scans:
        try:
            cache = open_features(project, scan, run)
        except UserError as error:
            if error.code != "no-features":
                raise
            continue
        yield best_match(cache, query)


def best_match(cache: FeatureCache, query: Query) -> Match:
    """The cell of a scan with the highest score, searched from a coarse to the full grid."""
    stride = 1
    while np.prod([-(-length // stride) for length in cache.array.shape[:3]]) > COARSE_CELLS:
        stride += 1
    scores = _scores(cache, query, stride)
    best = np.argsort(scores, axis=None)[-CANDIDATES:]
    cells = np.stack(np.unravel_index(best, scores.shape), axis=1) * stride
    if stride > 1:
        window = np.arange(1 - stride, stride)
        neighbourhood = np.stack(np.meshgrid(window, window, window, indexing="ij"), -1).reshape(-1, 3)
        cells = np.unique((cells[:, None] + neighbourhood).reshape(-1, 3), axis=0)
        cells = cells[((cells >= 0) & (cells < cache.array.shape[:3])).all(1)]
    exact = _scores_at(cache, query, cells)
    z, y, x = cells[int(exact.argmax())].tolist()
    return Match(cache.scan, cache.voxel_of((z, y, x)), float(exact.max()))


def _offset_cells(cache: FeatureCache, stride: int) -> np.ndarray:
    """OFFSETS_MM in cells of the grid with a stride, int (13, 3)."""
    cell_mm = np.array(cache.spacing_mm) * cache.step_vox * stride
    return np.round(OFFSETS_MM / cell_mm).astype(int)


def _scores(cache: FeatureCache, query: Query, stride: int) -> np.ndarray:
    """Scores of every `stride`-th cell along each axis, float32 (Z", Y", X")."""
    vectors = cache.array[::stride, ::stride, ::stride]
    shape = vectors.shape[:3]
    flat = vectors.reshape(-1, vectors.shape[-1])
    products = np.empty((len(query.descriptors), len(flat)), np.float32)
    for first in range(0, len(flat), CELLS_AT_ONCE):
        chunk = slice(first, first + CELLS_AT_ONCE)
        cells = flat[chunk].astype(np.float32)
        for row, vector in zip(products, query.descriptors, strict=True):
            row[chunk] = np.einsum("nf,f->n", cells, vector)  # not BLAS, see similarity.py
    total = np.zeros(shape, np.float32)
    for row, offset in zip(products.reshape(-1, *shape), _offset_cells(cache, stride), strict=True):
        z, y, x = (np.clip(np.arange(n) + step, 0, n - 1) for n, step in zip(shape, offset, strict=True))
        total += row[np.ix_(z, y, x)]
    return total / len(query.descriptors)


def _scores_at(cache: FeatureCache, query: Query, cells: np.ndarray) -> np.ndarray:
    """Scores of cells (N, 3) of the full grid, float32 (N,)."""
    last = np.array(cache.array.shape[:3]) - 1
    total = np.zeros(len(cells), np.float32)
    for vector, offset in zip(query.descriptors, _offset_cells(cache, 1), strict=True):
        shifted = np.clip(cells + offset, 0, last)
        total += cache.array[tuple(shifted.T)].astype(np.float32) @ vector
    return total / len(query.descriptors)
