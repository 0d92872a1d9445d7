"""Where else the learned features say "the same": numpy on features that features.py cached.

A cache is an array (Z', Y', X', F) of float16 unit vectors in canonical axes, read as a memory map, and a
small JSON file that says which scan, which weights and which grid. Cell c of an axis is centred at voxel
(c + 0.5) * step - 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medssl.core.errors import UserError
from medssl.core.files import read_array, read_json, write_array, write_json
from medssl.core.project.project import Project

FORMAT = 2
"""How cached features are made, as a number: where it has changed since, they are computed again."""
CELLS_AT_ONCE = 1 << 14
"""Cells turned to float32 at a time: large enough for BLAS, small enough to stay in the CPU's cache."""


LEFT_OVER = 0.05
"""Shorter than this, what is left of a query is chance."""


@dataclass(frozen=True)
class FeatureCache:
    """Features of one scan under one run's weights.

    array: (Z', Y', X', F) float16; step_vox: canonical voxels a cell; shape_zyx and spacing_mm: the scan's.
    """

    scan: str
    run: str
    array: np.ndarray
    step_vox: tuple[int, int, int]
    shape_zyx: tuple[int, int, int]
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def cell_of(self, voxel_zyx: Sequence[int]) -> tuple[int, int, int]:
        """The cell that holds a voxel.

        Raises UserError ("outside") for a voxel outside the scan.
        """
        if not all(0 <= at < length for at, length in zip(voxel_zyx, self.shape_zyx, strict=True)):
            raise UserError(
                f"Voxel {tuple(voxel_zyx)} lies outside {self.scan} with {self.shape_zyx} voxels; "
                "choose one inside.",
                code="outside",
            )
        z, y, x = (int(at) // step for at, step in zip(voxel_zyx, self.step_vox, strict=True))
        return (z, y, x)

    def voxel_of(self, cell: Sequence[int]) -> tuple[int, int, int]:
        """The voxel nearest to a cell's centre."""
        z, y, x = (
            min(int(at) * step + step // 2, length - 1)
            for at, step, length in zip(cell, self.step_vox, self.shape_zyx, strict=True)
        )
        return (z, y, x)


def _paths(project: Project, scan: str, run: str) -> tuple[Path, Path]:
    base = project.root / "features"
    return base / f"{scan}-{run}.npy", base / f"{scan}-{run}.json"


def write_features(
    project: Project, scan: str, run: str, array: np.ndarray, step_vox: tuple[int, int, int]
) -> Path:
    """Keep a scan's features; returns the array's file. The JSON comes last: it says the array is whole."""
    path, about = _paths(project, scan, run)
    about.unlink(missing_ok=True)
    for left in path.parent.glob(f".{path.name}.*.tmp"):  # of an engine that was killed while it wrote
        left.unlink(missing_ok=True)
    write_array(path, array)
    known = {"scan": scan, "run": run, "step_vox": list(step_vox), **_origin(project, scan, run)}
    write_json(about, known)
    return path


def _origin(project: Project, scan: str, run: str) -> dict[str, str | int]:
    """What features are made from: fingerprints of the scan and of the run's weights as they are now."""
    image, weights = project.scans[scan].sha256, project.run(run).weights_sha256
    return {"image": image, "weights": weights, "format": FORMAT}


def has_features(project: Project, scan: str, run: str) -> bool:
    """Whether features of a scan were ever computed; `open_features` says whether they still hold."""
    return _paths(project, scan, run)[1].exists()


def open_features(project: Project, scan: str, run: str) -> FeatureCache:
    """The cached features of a scan.

    Raises UserError ("no-features") where they were never computed, are damaged, or were made from another
    image or from earlier weights of the run.
    """
    path, about = _paths(project, scan, run)
    geometry = project.scans[scan].geometry
    shape = geometry.shape_zyx
    try:
        known = read_json(about)
        step = (int(known["step_vox"][0]), int(known["step_vox"][1]), int(known["step_vox"][2]))
        fitting = all(known.get(name) == now for name, now in _origin(project, scan, run).items())
        array = read_array(path, memory_map=True)
        cells = tuple(-(-length // each) for length, each in zip(shape, step, strict=True))
        fitting = fitting and array.dtype == np.float16 and array.shape[:-1] == cells
    except UserError as error:
        raise _no_features(scan, run, "no" if error.code == "missing" else "only damaged") from error
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise _no_features(scan, run, "only damaged") from error
    if not fitting:
        raise _no_features(scan, run, "only outdated")
    return FeatureCache(scan, run, array, step, shape, geometry.spacing_mm)


def _no_features(scan: str, run: str, which: str) -> UserError:
    return UserError(f"{scan} has {which} features of {run}; compute them (again).", code="no-features")


def query_at(cache: FeatureCache, voxel_zyx: Sequence[int]) -> np.ndarray:
    """The feature vector (F,) float32 of the cell under a voxel, of unit length.

    Raises UserError ("outside").
    """
    return _unit(np.asarray(cache.array[cache.cell_of(voxel_zyx)], dtype=np.float32))


def combine(like: Sequence[np.ndarray], unlike: Sequence[np.ndarray] = ()) -> np.ndarray:
    """One query (F,) float32 of unit length from unit vectors (F,) of places like it and unlike it.

    The mean of the former (Rocchio's relevance feedback; Salton, "The SMART Retrieval System", 1971), less
    what lies in the span of the latter: Widdows' negation ("Orthogonal negation in vector spaces", ACL
    2003). It has no weight to choose: what is not meant has a cosine of 0 from then on. Vectors that point
    away from the mean are left alone: it would only come closer to them.

    Raises UserError ("no-points", "same").
    """
    if not like:
        raise UserError("Click a place that is meant before one that is not.", code="no-points")
    query = _unit(np.mean(np.asarray(like, dtype=np.float32), axis=0))
    near = [vector for vector in unlike if float(vector @ query) > 0]
    if near:
        span, sizes, _ = np.linalg.svd(np.stack(near, axis=1).astype(np.float32), full_matrices=False)
        span = span[:, sizes > 1e-3 * sizes[0]]  # two clicks beside each other give one direction
        query = query - span @ (span.T @ query)
        if np.linalg.norm(query) < LEFT_OVER:
            raise UserError(
                "The places that are not meant look just like those that are; begin anew with a plain click.",
                code="same",
            )
    return _unit(query)


def similarity(cache: FeatureCache, query: np.ndarray) -> np.ndarray:
    """Cosine of every cell with `query`: float32 (Z', Y', X') in -1..1."""
    return _cosines(cache.array, query)


def similarity_slice(cache: FeatureCache, query: np.ndarray, axis: int, voxel_index: int) -> np.ndarray:
    """The same for the one plane of cells that holds voxel `voxel_index` of canonical `axis`.

    Raises UserError ("outside").
    """
    cell = cache.cell_of([voxel_index if other == axis else 0 for other in range(3)])[axis]
    return _cosines(cache.array[(slice(None),) * axis + (cell,)], query)


def _cosines(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    flat = vectors.reshape(-1, vectors.shape[-1])
    query = _unit(np.asarray(query, dtype=np.float32))
    result = np.empty(len(flat), np.float32)
    for first in range(0, len(flat), CELLS_AT_ONCE):
        part = slice(first, first + CELLS_AT_ONCE)
        # einsum, because BLAS splits so narrow a product badly over threads: seven times slower here.
        result[part] = np.einsum("nf,f->n", flat[part].astype(np.float32), query)
    return result.reshape(vectors.shape[:-1])


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-6)
