"""Cached dense features and similarity maps, in numpy.

The cache of a scan is an array (Z', Y', X', F) of float16 unit vectors in canonical order, read as a memory
map, and a JSON file with the scan, the weights and the grid. Cell c along an axis is centred at voxel (c +
0.5) * step - 0.5. tasks/inference/features.py computes the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medssl.core import shipped
from medssl.core.errors import UserError
from medssl.core.files import cached_sha256, read_array, sha256_of, write_array
from medssl.core.io.geometry import size_text
from medssl.core.json_files import read_json, write_json
from medssl.core.project.origin import is_current, origin_of
from medssl.core.project.project import Project

FORMAT = 2
"""Version of the computation of features; features of another version are computed again."""
CELLS_AT_ONCE = 1 << 14
"""Cells converted to float32 at a time: large enough for BLAS, small enough for the CPU cache."""
MIN_NORM = 0.05
"""A query whose norm becomes smaller by negation is noise."""


@dataclass(frozen=True)
class FeatureCache:
    """Features of one scan computed with the weights of one run.

    Attributes:
        array: Unit vectors, float16 (Z', Y', X', F).
        step_vox: Size of a cell in canonical voxels along (z, y, x).
        shape_zyx: Shape of the scan.
        spacing_mm: Voxel spacing of the scan along (z, y, x).
    """

    scan: str
    run: str
    array: np.ndarray
    step_vox: tuple[int, int, int]
    shape_zyx: tuple[int, int, int]
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def cell_of(self, voxel_zyx: Sequence[int]) -> tuple[int, int, int]:
        """The cell that contains a voxel.

        Raises:
            UserError: "outside" for a voxel outside the scan.
        """
        if not all(0 <= index < length for index, length in zip(voxel_zyx, self.shape_zyx, strict=True)):
            raise UserError(
                f"A voxel is not among the {size_text(self.shape_zyx)} of its scan; choose one inside.",
                code="outside",
            )
        z, y, x = (int(index) // step for index, step in zip(voxel_zyx, self.step_vox, strict=True))
        return (z, y, x)

    def voxel_of(self, cell: Sequence[int]) -> tuple[int, int, int]:
        """The voxel nearest to the centre of a cell."""
        z, y, x = (
            min(int(index) * step + step // 2, length - 1)
            for index, step, length in zip(cell, self.step_vox, self.shape_zyx, strict=True)
        )
        return (z, y, x)


def _paths(project: Project, scan: str, run: str) -> tuple[Path, Path]:
    base = project.root / "features"
    return base / f"{scan}-{run}.npy", base / f"{scan}-{run}.json"


def write_features(
    project: Project,
    scan: str,
    run: str,
    array: np.ndarray,
    step_vox: tuple[int, int, int],
    weights_sha256: str | None = None,
) -> Path:
    """Save the features of a scan. The JSON file is written last: it marks the array as complete.

    Args:
        array: Unit vectors in canonical order, float16 (Z', Y', X', F).
        step_vox: Size of a cell in voxels along (z, y, x).
        weights_sha256: Fingerprint of the weights that have computed them (origin.py); that of the run's
            present weights by default.

    Returns:
        Path of the array.

    Raises:
        UserError: "disk-full", "not-writable".
    """
    path, metadata = _paths(project, scan, run)
    project.make_folder("features")
    metadata.unlink(missing_ok=True)
    write_array(path, array)
    weights_sha256 = project.run(run).weights_sha256 if weights_sha256 is None else weights_sha256
    origin = origin_of(project.scans[scan], weights_sha256, FORMAT)
    fields = {"scan": scan, "run": run, "step_vox": list(step_vox), "sha256": sha256_of(path), **origin}
    write_json(metadata, fields)
    return path


def has_features(project: Project, scan: str, run: str) -> bool:
    """Whether features of a scan exist; `open_features` checks whether they are valid."""
    return _paths(project, scan, run)[1].exists()


def any_features(project: Project, scan: str) -> bool:
    """Whether features of a scan were ever computed with any weights of the project."""
    runs = [shipped.SHAPES, *(run.id for run in project.runs())]
    return any(has_features(project, scan, run) for run in runs)


def remove_features(project: Project, run: str) -> None:
    """Forget the features of all scans under a run; of no other one whose name ends alike."""
    for scan in project.scans:
        _paths(project, scan, run)[1].unlink(missing_ok=True)


def open_features(project: Project, scan: str, run: str, verify: bool = True) -> FeatureCache:
    """Open the cached features of a scan as a memory map.

    Args:
        verify: Compare the array with its hash, which reads all of it once in a process (0.1 s for 128 MB);
            False where nobody may wait for that, which finds damage that is known already.

    Raises:
        UserError: "no-features" if they were never computed, are damaged, or were computed from another image
            or from earlier weights of the run; "not-readable".
    """
    path, metadata = _paths(project, scan, run)
    geometry = project.scans[scan].geometry
    shape = geometry.shape_zyx
    try:
        fields = read_json(metadata)
        step = (int(fields["step_vox"][0]), int(fields["step_vox"][1]), int(fields["step_vox"][2]))
        present = origin_of(project.scans[scan], project.run(run).weights_sha256, FORMAT)
        current = is_current(fields, present)
        array = read_array(path, memory_map=True)
        cells = tuple(-(-length // size) for length, size in zip(shape, step, strict=True))
        current = current and array.dtype == np.float16 and array.shape[:-1] == cells
        sha256 = cached_sha256(path, if_known=not verify) if current else ""
        if sha256 and fields.get("sha256", sha256) != sha256:  # former versions stored none
            raise ValueError("another hash")
    except UserError as error:
        if error.code == "not-readable":
            raise
        raise _no_features(project, scan, run, "no" if error.code == "missing" else "only damaged") from error
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise _no_features(project, scan, run, "only damaged") from error
    if not current:
        raise _no_features(project, scan, run, "only outdated")
    return FeatureCache(scan, run, array, step, shape, geometry.spacing_mm)


def _no_features(project: Project, scan: str, run: str, state: str) -> UserError:
    title = project.scan(scan).title
    return UserError(f"{title} has {state} features of {run}; compute them (again).", code="no-features")


def query_at(cache: FeatureCache, voxel_zyx: Sequence[int]) -> np.ndarray:
    """Feature vector of the cell that contains a voxel.

    Returns:
        Unit vector, float32 (F,).

    Raises:
        UserError: "outside".
    """
    return _unit(np.asarray(cache.array[cache.cell_of(voxel_zyx)], dtype=np.float32))


def combine(like: Sequence[np.ndarray], unlike: Sequence[np.ndarray] = ()) -> np.ndarray:
    """Combine feature vectors of positive and negative points into one query.

    The mean of the positive vectors (Rocchio's relevance feedback; Salton, "The SMART Retrieval System",
    1971), minus its projection onto the span of the negative vectors (Widdows, "Orthogonal negation in vector
    spaces", ACL 2003). There is no weight to choose: negative vectors then have a cosine of 0 with the query.
    Negative vectors with a negative cosine are ignored, because the projection would bring the query closer
    to them.

    Args:
        like: Unit vectors of positive points, float32 (F,) each.
        unlike: Unit vectors of negative points, float32 (F,) each.

    Returns:
        Unit vector, float32 (F,).

    Raises:
        UserError: "no-points" without positive vectors, "same" if positive and negative vectors coincide.
    """
    if not like:
        raise UserError("Click a positive point before a negative one.", code="no-points")
    query = _unit(np.mean(np.asarray(like, dtype=np.float32), axis=0))
    negatives = [vector for vector in unlike if float(vector @ query) > 0]
    if negatives:
        span, sizes, _ = np.linalg.svd(np.stack(negatives, axis=1).astype(np.float32), full_matrices=False)
        span = span[:, sizes > 1e-3 * sizes[0]]  # two adjacent points give one direction
        query = query - span @ (span.T @ query)
        if np.linalg.norm(query) < MIN_NORM:
            raise UserError(
                "The negative points look the same as the positive ones; start again with a plain click.",
                code="same",
            )
    return _unit(query)


def similarity(cache: FeatureCache, query: np.ndarray) -> np.ndarray:
    """Cosine similarity of every cell with a query.

    Args:
        query: Feature vector (F,).

    Returns:
        float32 (Z', Y', X') in -1..1.

    Example:
        >>> cache = open_features(project, "case-01", "shapes")
        >>> similarity(cache, query_at(cache, (30, 120, 96)))
    """
    return _cosines(cache.array, query)


def similarity_slice(cache: FeatureCache, query: np.ndarray, axis: int, voxel_index: int) -> np.ndarray:
    """Cosine similarity for the plane of cells that contains one slice.

    Args:
        query: Feature vector (F,).
        axis: Canonical axis across the slice.
        voxel_index: Slice along this axis, in voxels.

    Returns:
        float32 (rows, columns) of cells, in -1..1.

    Raises:
        UserError: "outside".
    """
    cell = cache.cell_of([voxel_index if other == axis else 0 for other in range(3)])[axis]
    return _cosines(cache.array[(slice(None),) * axis + (cell,)], query)


def _cosines(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    flat = vectors.reshape(-1, vectors.shape[-1])
    query = _unit(np.asarray(query, dtype=np.float32))
    result = np.empty(len(flat), np.float32)
    for first in range(0, len(flat), CELLS_AT_ONCE):
        chunk = slice(first, first + CELLS_AT_ONCE)
        # einsum, because BLAS parallelises such a narrow product badly: seven times slower here.
        result[chunk] = np.einsum("nf,f->n", flat[chunk].astype(np.float32), query)
    return result.reshape(vectors.shape[:-1])


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-6)
