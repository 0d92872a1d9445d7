"""Where in a scan is the place that was clicked, there or in another scan.

One cell says too little of where it lies: a 2.5D network sees three slices, and tissue goes on. So a place is
compared with what is around it, cell by cell, as a rigid star of arms along the axes: the score of a place is
the mean cosine over the star. (The idea of neighbourhood consensus, Rocco et al., NeurIPS 2018, without
anything to learn.) On the hippocampus scans that matters more than which weights or which levels are
compared; docs/benchmarks/landmarks.md has the numbers. Beyond a scan's border its last cell goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from medssl.core.errors import UserError
from medssl.core.features.similarity import CELLS_AT_ONCE, FeatureCache, combine, open_features, query_at
from medssl.core.project.project import Project

ARMS_MM = (5.0, 10.0)
"""How far away from a place, along each axis and both ways, its surroundings are looked at."""
STAR_MM = np.array(
    [(0.0, 0.0, 0.0)]
    + [
        tuple(sign * arm * (axis == other) for other in range(3))
        for arm in ARMS_MM
        for axis in range(3)
        for sign in (-1, 1)
    ]
)
"""(13, 3) offsets along (z, y, x); the first is the place itself."""
COARSE_CELLS = 100_000
"""Scans with more cells are searched on a thinned grid first, and at all cells only around the best of it."""
CANDIDATES = 8
"""Places of the thinned grid that are looked at more closely."""


@dataclass(frozen=True)
class Point:
    """A place of a scan that was clicked: what is looked for is like it, or is not."""

    scan: str
    voxel_zyx: tuple[int, int, int]
    like: bool = True


@dataclass(frozen=True)
class Match:
    """The place of a scan that is most like what is looked for; score: the star's mean cosine, -1..1."""

    scan: str
    voxel_zyx: tuple[int, int, int]
    score: float


@dataclass(frozen=True)
class Query:
    """What clicks look for: star (13, F) float32, a unit vector for each offset of STAR_MM."""

    descriptors: np.ndarray

    @property
    def centre(self) -> np.ndarray:
        """(F,) the place alone: what a map of what looks alike is made from."""
        centre: np.ndarray = self.descriptors[0]
        return centre


def neighbourhood_descriptor(cache: FeatureCache, voxel_zyx: Sequence[int]) -> np.ndarray:
    """(13, F) float32 unit vectors of a place and of what is around it.

    Raises UserError ("outside").
    """
    cell = np.array(cache.cell_of(voxel_zyx))
    cells = np.clip(cell + _arms(cache, 1), 0, np.array(cache.array.shape[:3]) - 1)
    vectors = cache.array[tuple(cells.T)].astype(np.float32)
    vectors[0] = query_at(cache, voxel_zyx)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def query_of(project: Project, run: str, points: Iterable[Point]) -> Query:
    """What several clicks, in whatever scans, look for; similarity.combine says how they go together.

    Raises UserError ("no-features", "outside", "no-points", "same").
    """
    stars: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for point in points:
        stars[point.like].append(
            neighbourhood_descriptor(open_features(project, point.scan, run), point.voxel_zyx)
        )
    return combined(stars[True], stars[False])


def combined(like: Sequence[np.ndarray], unlike: Sequence[np.ndarray] = ()) -> Query:
    """One query from the stars of places like it and unlike it, offset by offset.

    Raises UserError ("no-points", "same").
    """
    rows = [combine([each[0] for each in like], [each[0] for each in unlike])]
    for number in range(1, len(STAR_MM)):
        try:
            rows.append(combine([each[number] for each in like], [each[number] for each in unlike]))
        except UserError:  # nothing there tells one from the other: it has no say
            rows.append(np.zeros_like(rows[0]))
    return Query(np.stack(rows))


def search(project: Project, run: str, query: Query, scans: Iterable[str]) -> Iterator[Match]:
    """The best match of each scan, one after the other; scans without features in order are left out."""
    for scan in scans:
        try:
            cache = open_features(project, scan, run)
        except UserError as error:
            if error.code != "no-features":
                raise
            continue
        yield best_match(cache, query)


def best_match(cache: FeatureCache, query: Query) -> Match:
    """The place of a scan whose surroundings are most like those that were clicked."""
    thin = 1
    while np.prod([-(-n // thin) for n in cache.array.shape[:3]]) > COARSE_CELLS:
        thin += 1
    scores = _scores(cache, query, thin)
    best = np.argsort(scores, axis=None)[-CANDIDATES:]
    cells = np.stack(np.unravel_index(best, scores.shape), axis=1) * thin
    if thin > 1:
        window = np.arange(1 - thin, thin)
        near = np.stack(np.meshgrid(window, window, window, indexing="ij"), -1).reshape(-1, 3)
        cells = np.unique((cells[:, None] + near).reshape(-1, 3), axis=0)
        cells = cells[((cells >= 0) & (cells < cache.array.shape[:3])).all(1)]
    exact = _scores_at(cache, query, cells)
    z, y, x = cells[int(exact.argmax())].tolist()
    return Match(cache.scan, cache.voxel_of((z, y, x)), float(exact.max()))


def _arms(cache: FeatureCache, thin: int) -> np.ndarray:
    """STAR_MM in cells of the (thinned) grid, (13, 3) whole numbers."""
    cell_mm = np.array(cache.spacing_mm) * cache.step_vox * thin
    return np.round(STAR_MM / cell_mm).astype(int)


def _scores(cache: FeatureCache, query: Query, thin: int) -> np.ndarray:
    """float32 (Z", Y", X") scores of every `thin`-th cell along each axis."""
    vectors = cache.array[::thin, ::thin, ::thin]
    shape = vectors.shape[:3]
    flat = vectors.reshape(-1, vectors.shape[-1])
    products = np.empty((len(query.descriptors), len(flat)), np.float32)
    for first in range(0, len(flat), CELLS_AT_ONCE):
        part = slice(first, first + CELLS_AT_ONCE)
        cells = flat[part].astype(np.float32)
        for row, vector in zip(products, query.descriptors, strict=True):
            row[part] = np.einsum("nf,f->n", cells, vector)  # not BLAS: see similarity
    total = np.zeros(shape, np.float32)
    for row, arm in zip(products.reshape(-1, *shape), _arms(cache, thin), strict=True):
        z, y, x = (np.clip(np.arange(n) + by, 0, n - 1) for n, by in zip(shape, arm, strict=True))
        total += row[np.ix_(z, y, x)]
    return total / len(query.descriptors)


def _scores_at(cache: FeatureCache, query: Query, cells: np.ndarray) -> np.ndarray:
    """(N,) scores of cells (N, 3) of the full grid."""
    end = np.array(cache.array.shape[:3]) - 1
    total = np.zeros(len(cells), np.float32)
    for vector, arm in zip(query.descriptors, _arms(cache, 1), strict=True):
        at = np.clip(cells + arm, 0, end)
        total += cache.array[tuple(at.T)].astype(np.float32) @ vector
    return total / len(query.descriptors)
