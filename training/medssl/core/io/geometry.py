"""Where a scan's voxels lie in the patient, and the one way between the file's order and ours.

Arrays in memory are canonical: (Z, Y, X), C order, indices growing towards superior, anterior and right.
Only axes are swapped and mirrored to get there; nothing is ever resampled, so the way back is exact. An
oblique or sheared affine stays as it is and travels along.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medssl.core.errors import UserError

Affine = tuple[tuple[float, ...], ...]
AXIS_NAMES = ("axial", "coronal", "sagittal")
"""What slices across the canonical axes are called."""
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""ITK and DICOM count towards left and posterior, we towards right and anterior; its own inverse."""
FLAT = 1e-4
"""Volume of a voxel, its edges scaled to length one, below which the axes no longer span space."""


@dataclass(frozen=True)
class Geometry:
    """Grid of a scan as its file has it.

    affine: 4 x 4, from file voxel indices (i, j, k) to patient millimetres (right, anterior, superior).
    shape: number of voxels along i, j, k.
    nifti: of a NIfTI source the header fields that say where it lies (volume.py copies them into label
        files, so that every program lays these over the scan in whichever way it reads them); else empty.
    """

    affine: Affine
    shape: tuple[int, int, int]
    nifti: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, affine: np.ndarray, shape: tuple[int, ...], nifti: dict[str, Any] | None = None) -> Geometry:
        """The geometry of an array of `shape` with that affine.

        Raises UserError ("bad-geometry") for an affine that is not finite or squeezes an axis to nothing.
        """
        matrix = np.asarray(affine, dtype=np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise UserError(
                "The affine is not a finite 4 x 4 matrix; repair the header.", code="bad-geometry"
            )
        lengths = np.linalg.norm(matrix[:3, :3], axis=0)
        if lengths.min() <= 0 or abs(np.linalg.det(matrix[:3, :3] / lengths)) < FLAT:
            raise UserError(
                "The affine gives an axis no length of its own; repair the header.", code="bad-geometry"
            )
        rows = tuple(tuple(float(value) for value in row) for row in matrix)
        return cls(rows, (int(shape[0]), int(shape[1]), int(shape[2])), nifti or {})

    @property
    def matrix(self) -> np.ndarray:
        """The affine as a 4 x 4 float64 array."""
        return np.array(self.affine)

    @property
    def axis_codes(self) -> str:
        """Directions in which i, j, k grow, to the nearest axis: "RAS", "LPI", ..."""
        from nibabel.orientations import ornt2axcodes  # takes a moment to import, see volume.py

        return "".join(ornt2axcodes(self._orientation))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along canonical (z, y, x)."""
        lengths = np.linalg.norm(self.matrix[:3, :3], axis=0)
        z, y, x = (float(lengths[axis]) for axis in self._source_axes)
        return (z, y, x)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel; of sheared grids, too."""
        return abs(float(np.linalg.det(self.matrix[:3, :3]))) / 1000

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Shape of the canonical array."""
        z, y, x = (self.shape[axis] for axis in self._source_axes)
        return (z, y, x)

    @property
    def canonical_affine(self) -> np.ndarray:
        """4 x 4 from canonical indices (z, y, x) to patient millimetres (right, anterior, superior)."""
        to_source = np.zeros((4, 4))
        to_source[3, 3] = 1
        for canonical, (source, mirrored) in enumerate(zip(self._source_axes, self._mirrored, strict=True)):
            to_source[source, canonical] = -1 if mirrored else 1
            to_source[source, 3] = self.shape[source] - 1 if mirrored else 0
        return self.matrix @ to_source

    def to_canonical(self, array: np.ndarray) -> np.ndarray:
        """(Z, Y, X) C-contiguous array from one in the file's order; a view where nothing has to move."""
        turned = np.transpose(array, self._source_axes)
        return np.ascontiguousarray(turned[self._mirror])

    def to_source(self, array_zyx: np.ndarray) -> np.ndarray:
        """The exact inverse of `to_canonical`: an array in the file's order."""
        return np.ascontiguousarray(np.transpose(array_zyx[self._mirror], np.argsort(self._source_axes)))

    def same_grid(self, other: Geometry, tolerance: float = 0.05) -> bool:
        """Whether canonical arrays of both lie on each other voxel by voxel.

        The files' own axis order does not matter. Corners may be apart by `tolerance` of the smallest
        spacing: programs round affines.
        """
        if self.shape_zyx != other.shape_zyx:
            return False
        corners = np.array(list(itertools.product(*[(0, length - 1) for length in self.shape_zyx], (1,))))
        apart = corners @ (self.canonical_affine - other.canonical_affine).T
        return bool(np.linalg.norm(apart[:, :3], axis=1).max() <= tolerance * min(self.spacing_mm))

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {
            "affine": [list(row) for row in self.affine],
            "shape": list(self.shape),
            "nifti": self.nifti,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Geometry:
        """The inverse of `to_json`."""
        return cls.of(np.array(value["affine"]), tuple(value["shape"]), value.get("nifti"))

    @property
    def _orientation(self) -> np.ndarray:
        from nibabel.orientations import io_orientation

        return io_orientation(self.matrix)

    @property
    def _source_axes(self) -> tuple[int, int, int]:
        """Axes of the file in canonical order (superior, anterior, right)."""
        patient_axis = self._orientation[:, 0].astype(int).tolist()
        return (patient_axis.index(2), patient_axis.index(1), patient_axis.index(0))

    @property
    def _mirrored(self) -> tuple[bool, ...]:
        return tuple(bool(self._orientation[axis, 1] < 0) for axis in self._source_axes)

    @property
    def _mirror(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1) if mirrored else slice(None) for mirrored in self._mirrored)


def three_axes(array: np.ndarray, path: Path) -> np.ndarray:
    """The array without trailing axes of length one.

    Raises UserError ("not-3d") where that leaves anything but one volume.
    """
    shape = array.shape
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 3 or min(array.shape) < 2:
        raise UserError(
            f"{path} is not one 3D volume (its shape is {' x '.join(map(str, shape))}); "
            "export a single volume with at least two slices.",
            code="not-3d",
        )
    return array
