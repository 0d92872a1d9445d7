"""Surfaces of segmented structures as triangles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from medssl.core.io.geometry import RAS_TO_LPS, Geometry

MAX_VOXELS = 4_000_000
"""A larger structure is first halved along its finest axes: millions of triangles take long to draw."""
SMOOTHING_STEPS, SHRINK, GROW = 10, 0.5, -0.53
"""Of Taubin, A signal processing approach to fair surface design (SIGGRAPH 1995): volumes are kept."""


@dataclass(frozen=True)
class Surface:
    """The closed surface of a class.

    Attributes:
        class_id: The class.
        vertices: Canonical voxel coordinates z, y, x, float64 (N, 3); voxel centres are whole numbers.
        faces: Vertices of each triangle, int (M, 3), counterclockwise seen from outside, in RAS or LPS.
        ml: Volume of the voxels of the class.
    """

    class_id: int
    vertices: np.ndarray
    faces: np.ndarray
    ml: float

    def patient_mm(self, geometry: Geometry) -> np.ndarray:
        """The vertices in the patient's LPS coordinates (left, posterior, superior) in mm, float64 (N, 3)."""
        matrix = RAS_TO_LPS @ geometry.canonical_affine
        return self.vertices @ matrix[:3, :3].T + matrix[:3, 3]


def surfaces_of(labels: np.ndarray, geometry: Geometry) -> Iterator[Surface]:
    """The smoothed surface of each class that occurs.

    Args:
        labels: Class ids, uint8 (Z, Y, X).
        geometry: Grid of the labels.
    """
    from scipy.ndimage import find_objects  # imported late, as in postprocess.py
    from skimage.measure import marching_cubes

    for class_id, box in enumerate(find_objects(labels), 1):
        if box is None:
            continue
        mask = labels[box] == class_id
        density, step = _coarser(mask, geometry.spacing_mm)
        vertices, faces, _, _ = marching_cubes(np.pad(density, 1), 0.5)
        vertices = _smoothed(vertices.astype(np.float64) - 1, faces)
        corner = np.array([span.start for span in box])
        vertices = corner + vertices * step + (step - 1) / 2
        surface = Surface(class_id, vertices, faces, np.count_nonzero(mask) * geometry.voxel_ml)
        if signed_volume(surface.patient_mm(geometry), faces) < 0:
            surface = Surface(class_id, vertices, faces[:, ::-1], surface.ml)
        yield surface


def signed_volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """The volume that a closed surface encloses, negative where its triangles face inwards.

    Args:
        vertices: Coordinates, float (N, 3).
        faces: Vertices of each triangle, int (M, 3).
    """
    centred = vertices - vertices.mean(0)
    a, b, c = (centred[faces[:, corner]] for corner in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def _coarser(mask: np.ndarray, spacing_mm: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """The share of each cell of a coarser grid that a mask covers, float32, and voxels per cell (z, y, x)."""
    density, step = mask.astype(np.float32), np.ones(3, int)
    while density.size > MAX_VOXELS:
        axis = int(np.argmin(step * spacing_mm))
        slices = np.moveaxis(density, axis, 0)
        slices = np.pad(slices, ((0, len(slices) % 2), (0, 0), (0, 0)))
        pairs = slices[::2] + slices[1::2]
        density = np.moveaxis(pairs * np.float32(0.5), 0, axis)
        step[axis] *= 2
    return density, step


def _smoothed(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Move each vertex towards the mean of its neighbours and slightly further back, several times."""
    from scipy import sparse

    start, end = faces[:, [0, 1, 2]].ravel(), faces[:, [1, 2, 0]].ravel()  # each edge once per direction
    adjacency = sparse.csr_matrix((np.ones(len(start)), (start, end)), (len(vertices), len(vertices)))
    mean = sparse.diags(1 / np.asarray(adjacency.sum(1)).ravel()) @ adjacency
    for _ in range(SMOOTHING_STEPS):
        for amount in (SHRINK, GROW):
            vertices = vertices + amount * (mean @ vertices - vertices)
    return vertices
