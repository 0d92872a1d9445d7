"""Voxel grids in patient space, and the conversion between file order and canonical order.

Arrays in memory are canonical: (Z, Y, X), C order, indices increasing towards superior, anterior and right.
The conversion only permutes and flips axes and never resamples, so it is exactly invertible. An oblique or
sheared affine is kept as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medssl.core.errors import UserError
from medssl.core.typed import convert

Affine = tuple[tuple[float, ...], ...]
AXIS_NAMES = ("axial", "coronal", "sagittal")
"""Names of slices across the canonical axes."""
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From RAS coordinates, as in NIfTI and here, to the LPS coordinates of ITK and DICOM; its own inverse."""
PLAUSIBLE_MM = (0.002, 50.0)
"""Range of voxel spacings: from micro-CT to localisers."""
MAX_EXTENT_MM = 3000.0
SEVERAL_VOLUMES = "several-volumes"
"""Code of the error that refuses a 4D file as a scan."""
MIN_UNIT_VOLUME = 1e-4
"""Smallest volume of a voxel with edges scaled to length one; below it the axes are linearly dependent."""


@dataclass(frozen=True)
class Geometry:
    """Voxel grid of a scan in the axis order of its file.

    Attributes:
        affine: 4 x 4 matrix from file voxel indices (i, j, k) to patient coordinates in mm (right, anterior,
            superior).
        shape: Number of voxels along i, j, k.
        nifti: Header fields that position a NIfTI source, otherwise empty. They are copied into label files,
            so that every program positions labels and scan alike, whichever of the fields it reads.
    """

    affine: Affine
    shape: tuple[int, int, int]
    nifti: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, affine: np.ndarray, shape: tuple[int, ...], nifti: dict[str, Any] | None = None) -> Geometry:
        """Create a geometry and check its affine.

        Args:
            affine: Matrix from voxel indices (i, j, k) to patient coordinates in mm, RAS (4, 4).
            shape: Number of voxels along i, j, k.
            nifti: Header fields of a NIfTI source.

        Raises:
            UserError: "bad-geometry" if the affine is not finite or singular.
        """
        matrix = np.asarray(affine, dtype=np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise UserError(
                "The affine is not a finite 4 x 4 matrix; repair the header.", code="bad-geometry"
            )
        if not spans_volume(matrix):
            raise UserError(
                "The affine is singular: its axes do not span a volume; repair the header.",
                code="bad-geometry",
            )
        rows = tuple(tuple(float(value) for value in row) for row in matrix)
        return cls(rows, (int(shape[0]), int(shape[1]), int(shape[2])), nifti or {})

    @property
    def matrix(self) -> np.ndarray:
        """The affine, float64 (4, 4)."""
        return np.array(self.affine)

    @property
    def axis_codes(self) -> str:
        """Nearest patient directions of the axes i, j, k: "RAS", "LPI", ..."""
        from nibabel.orientations import ornt2axcodes  # imported late, see volume.py

        return "".join(ornt2axcodes(self._orientation))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel spacing along canonical (z, y, x)."""
        lengths = np.linalg.norm(self.matrix[:3, :3], axis=0)
        z, y, x = (float(lengths[axis]) for axis in self._source_axes)
        return (z, y, x)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in ml; valid for sheared grids, too."""
        return abs(float(np.linalg.det(self.matrix[:3, :3]))) / 1000

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Shape of the canonical array."""
        z, y, x = (self.shape[axis] for axis in self._source_axes)
        return (z, y, x)

    @property
    def canonical_affine(self) -> np.ndarray:
        """Matrix (4, 4) from canonical indices (z, y, x) to patient coordinates in mm, RAS."""
        to_source = np.zeros((4, 4))
        to_source[3, 3] = 1
        for canonical, (source, mirrored) in enumerate(zip(self._source_axes, self._mirrored, strict=True)):
            to_source[source, canonical] = -1 if mirrored else 1
            to_source[source, 3] = self.shape[source] - 1 if mirrored else 0
        return self.matrix @ to_source

    def to_canonical(self, array: np.ndarray) -> np.ndarray:
        """Convert an array from file order to canonical order.

        Args:
            array: Array in the axis order of the file (I, J, K).

        Returns:
            C-contiguous array (Z, Y, X); a view if no axis has to be moved.
        """
        permuted = np.transpose(array, self._source_axes)
        return np.ascontiguousarray(permuted[self._mirror])

    def to_source(self, array_zyx: np.ndarray) -> np.ndarray:
        """Convert an array from canonical order to file order, the exact inverse of `to_canonical`.

        Args:
            array_zyx: Array in canonical order (Z, Y, X).

        Returns:
            C-contiguous array in the axis order of the file (I, J, K).
        """
        return np.ascontiguousarray(np.transpose(array_zyx[self._mirror], np.argsort(self._source_axes)))

    def same_grid(self, other: Geometry, tolerance: float = 0.05) -> bool:
        """Whether the canonical arrays of both geometries coincide voxel by voxel.

        The axis order of the files does not matter.

        Args:
            tolerance: Allowed distance of corresponding corners as a fraction of the smallest spacing,
                because programs round affines.
        """
        if self.shape_zyx != other.shape_zyx:
            return False
        corners = np.array(list(itertools.product(*[(0, length - 1) for length in self.shape_zyx], (1,))))
        difference = corners @ (self.canonical_affine - other.canonical_affine).T
        return bool(np.linalg.norm(difference[:, :3], axis=1).max() <= tolerance * min(self.spacing_mm))

    def to_json(self) -> dict[str, Any]:
        """The geometry as JSON values."""
        return {
            "affine": [list(row) for row in self.affine],
            "shape": list(self.shape),
            "nifti": self.nifti,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Geometry:
        """The inverse of `to_json`.

        Raises UserError ("bad-geometry").
        """
        made = convert(cls, value, "The geometry", "bad-geometry")
        if {len(row) for row in made.affine} != {4}:
            raise UserError("The affine is not a 4 x 4 matrix; repair the header.", code="bad-geometry")
        return cls.of(made.matrix, made.shape, made.nifti)

    @cached_property
    def _orientation(self) -> np.ndarray:
        from nibabel.orientations import io_orientation

        axes = self.matrix[:3, :3]
        along = axes != 0
        if (along.sum(0) == 1).all() and (along.sum(1) == 1).all():  # not oblique: without decomposition
            return np.stack([along.argmax(0), np.sign(axes.sum(0))], 1)
        return io_orientation(self.matrix)

    @property
    def _source_axes(self) -> tuple[int, int, int]:
        """File axes in canonical order (superior, anterior, right)."""
        patient_axis = self._orientation[:, 0].astype(int).tolist()
        return (patient_axis.index(2), patient_axis.index(1), patient_axis.index(0))

    @property
    def _mirrored(self) -> tuple[bool, ...]:
        return tuple(bool(self._orientation[axis, 1] < 0) for axis in self._source_axes)

    @property
    def _mirror(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1) if mirrored else slice(None) for mirrored in self._mirrored)


def size_text(sizes_zyx: Iterable[float]) -> str:
    """Sizes along z, y, x as they are shown everywhere, x first: "112 × 112 × 64"."""
    return " × ".join(f"{size:.6g}" for size in reversed(tuple(sizes_zyx)))


def spans_volume(affine: np.ndarray) -> bool:
    """Whether the axes of an affine (4, 4) are finite, have a length, and are linearly independent."""
    axes = affine[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if not np.isfinite(lengths).all() or lengths.min() <= 0:
        return False
    return bool(abs(np.linalg.det(axes / lengths)) >= MIN_UNIT_VOLUME)


def implausible_size(geometry: Geometry) -> str:
    """A sentence about a spacing or an extent that scanners do not make; empty for a plausible one."""
    spacing = np.array(geometry.spacing_mm)
    extent = spacing * geometry.shape_zyx
    low, high = PLAUSIBLE_MM
    if low <= spacing.min() and spacing.max() <= high and extent.max() <= MAX_EXTENT_MM:
        return ""
    voxels, whole = (" x ".join(f"{length:.4g}" for length in sizes[::-1]) for sizes in (spacing, extent))
    return f"Its voxels of {voxels} mm (in all {whole} mm) are implausible; check the unit in its header."


def three_axes(array: np.ndarray, path: Path, labels: bool = False) -> np.ndarray:
    """Remove axes of length one beyond the third.

    Args:
        array: Array of a file (I, J, K, 1, ...).
        path: The file, for the error message.
        labels: Accept what label files may be as well: several channels, a single slice.

    Returns:
        Array (I, J, K), or (I, J, K, C).

    Raises:
        UserError: SEVERAL_VOLUMES if there are volumes to choose from, "not-3d" for anything else that is not
            a single one.
    """
    shape = array.shape
    array = array.reshape(*shape[:3], *(length for length in shape[3:] if length > 1))
    if not 3 <= array.ndim <= 3 + labels or (min(array.shape) < 2 and not labels):
        is_4d = array.ndim == 4 and min(array.shape) > 1
        choose = "choose some of its volumes (medssl init --volumes 0,1), or export a single one"
        raise UserError(
            f"{path} is not one 3D volume (its shape is {' x '.join(map(str, shape))}); "
            f"{choose if is_4d else 'export a single volume with at least two slices'}.",
            code=SEVERAL_VOLUMES if is_4d else "not-3d",
        )
    return array
