"""Drawing primitives of the phantom: shapes as signed distances in mm.

A shape is an array of approximate signed distances in mm, negative inside. It is drawn into the scan with an
edge about one voxel wide (partial volume) and into the labels with a sharp edge. Points are patient
coordinates (x, y, z) in mm: x towards the right, y anterior, z superior, so that the anatomy is defined once
and drawn on any grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Box = tuple[slice, slice, slice]
WHOLE: Box = (slice(None), slice(None), slice(None))
Point = Sequence[float] | np.ndarray  # x, y, z in mm
FAR_MM = 1e3


def smooth_field(rng: np.random.Generator, axes_mm: Sequence[np.ndarray], wavelength_mm: float) -> np.ndarray:
    """A smooth random field, float32 (Z, Y, X), with mean 0 and standard deviation about 1.

    Cubic B-splines on a coarse grid that is fixed in mm, so the same generator state gives the same field for
    every voxel size. It repeats after 12 wavelengths.

    Args:
        axes_mm: Coordinates of the voxels along z, y and x, one array (N,) each.
    """
    knots = 24
    field = rng.standard_normal((knots,) * 3).astype(np.float32)
    for coordinates in axes_mm:
        position = coordinates / (wavelength_mm / 2)
        distance = np.abs(position[:, None] - np.arange(knots)[None]) % knots
        distance = np.minimum(distance, knots - distance)
        inner = 2 / 3 - distance**2 + distance**3 / 2
        outer = np.maximum(2 - distance, 0) ** 3 / 6
        basis = np.where(distance < 1, inner, outer).astype(np.float32)
        # A B-spline sum of white noise has a standard deviation of 0.692 per axis, averaged over positions.
        field = np.tensordot(field, basis / np.float32(0.692), axes=(0, 1))
    return field


def plateau(values: np.ndarray) -> np.ndarray:
    """exp(-values⁴): 1 around 0 and almost 0 at 1.5, with a flatter top than a Gaussian.

    Args:
        values: Arguments (any shape).
    """
    square = values * values
    return np.exp(-square * square)


def smooth_max(first: np.ndarray, second: np.ndarray, rounding_mm: float) -> np.ndarray:
    """Intersection of two shapes with an edge that is rounded over about `rounding_mm`.

    Args:
        first: Signed distances in mm (Z, Y, X).
        second: Signed distances in mm (Z, Y, X).
    """
    blend = np.maximum(rounding_mm - np.abs(first - second), 0)
    return np.maximum(first, second) + blend * blend / (4 * rounding_mm)


def smooth_min(first: np.ndarray, second: np.ndarray, rounding_mm: float) -> np.ndarray:
    """Union of two shapes with an edge that is rounded over about `rounding_mm`.

    Args:
        first: Signed distances in mm (Z, Y, X).
        second: Signed distances in mm (Z, Y, X).
    """
    return -smooth_max(-first, -second, rounding_mm)


@dataclass(frozen=True)
class Canvas:
    """The scan that is being drawn, with arrays in canonical order (Z, Y, X).

    Attributes:
        axes_mm: Scanner coordinates of the voxel centres along z, y and x, one array (N,) each.
        x, y, z: Patient coordinates of each voxel in mm, float32 (Z, Y, X), after scaling, rotation and
            smooth deformation.
        hu: Densities in HU, float32 (Z, Y, X).
        labels: Class ids, uint8 (Z, Y, X).
        edge_mm: Width of the edges of shapes.
        transform: Matrix (3, 3) from patient to scanner coordinates without the deformation.
        origin: Translation (3,) of this transform in mm.
        slack_mm: Upper bound of the deformation.
    """

    axes_mm: tuple[np.ndarray, np.ndarray, np.ndarray]
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    hu: np.ndarray
    labels: np.ndarray
    edge_mm: float
    transform: np.ndarray
    origin: np.ndarray
    slack_mm: float

    def box(self, low: Point, high: Point) -> Box:
        """Box of voxels that contains a cuboid, given by two opposite corners in patient coordinates."""
        low, high = np.asarray(low), np.asarray(high)
        centre = self.transform @ (low + high) / 2 + self.origin
        extent = np.abs(self.transform) @ (high - low) / 2 + self.slack_mm + self.edge_mm
        bounds = zip((centre - extent)[::-1], (centre + extent)[::-1], strict=True)
        z, y, x = (
            slice(*np.searchsorted(axis, bound)) for axis, bound in zip(self.axes_mm, bounds, strict=True)
        )
        return z, y, x

    def field(
        self,
        rng: np.random.Generator,
        wavelength_mm: float,
        box: Box = WHOLE,
    ) -> np.ndarray:
        """A smooth random field on the voxels of a box, see `smooth_field`."""
        axes = [axis[span] for axis, span in zip(self.axes_mm, box, strict=True)]
        return smooth_field(rng, axes, wavelength_mm)

    def paint(
        self,
        distance: np.ndarray,
        hu: float | np.ndarray,
        label: int | None = None,
        box: Box = WHOLE,
    ) -> None:
        """Draw a shape over the current content.

        Args:
            distance: Signed distances in mm, negative inside (Z, Y, X) of the box.
            hu: Density in HU, scalar or (Z, Y, X) of the box.
            label: Class id; None keeps the labels.
        """
        current = self.hu[box]
        coverage = np.clip(0.5 - distance / self.edge_mm, 0, 1)
        current += coverage * (hu - current)
        if label is not None:
            self.labels[box][distance < 0] = label


def ellipsoid(
    canvas: Canvas, center: Point, radii: Point, axes: np.ndarray | None = None
) -> tuple[Box, np.ndarray]:
    """An ellipsoid.

    Args:
        center: Centre in patient coordinates.
        radii: Semi-axes in mm.
        axes: Directions of the semi-axes as rows (3, 3); None for those of the patient.

    Returns:
        A box that contains the ellipsoid, and approximate signed distances in mm (Z, Y, X) of the box.
    """
    axes = np.eye(3) if axes is None else axes
    extent = np.sqrt(((axes * np.array(radii)[:, None]) ** 2).sum(0)) + 2 * canvas.edge_mm + 8
    box = canvas.box(np.array(center) - extent, np.array(center) + extent)
    return box, ellipsoid_at(canvas, box, center, radii, axes)


def ellipsoid_at(
    canvas: Canvas, box: Box, center: Point, radii: Point, axes: np.ndarray | None = None
) -> np.ndarray:
    """Approximate signed distances in mm of an `ellipsoid` on the voxels of a box, (Z, Y, X).

    Args:
        axes: Directions of the semi-axes as rows (3, 3); None for those of the patient.
    """
    x, y, z = canvas.x[box] - center[0], canvas.y[box] - center[1], canvas.z[box] - center[2]
    axes = np.eye(3) if axes is None else axes
    square = np.zeros_like(x)
    gradient = np.zeros_like(x)
    for axis, radius in zip(axes.astype(np.float32), radii, strict=True):
        component = (axis[0] * x + axis[1] * y + axis[2] * z) / np.float32(radius)
        square += component**2
        gradient += (component / np.float32(radius)) ** 2
    norm = np.sqrt(square)
    return norm * (norm - 1) / np.maximum(np.sqrt(gradient), 1e-4)


def tube(
    canvas: Canvas, points: Sequence[Point] | np.ndarray, radii_mm: Sequence[float] | np.ndarray
) -> tuple[Box, np.ndarray]:
    """A tube along a polyline: its box, and signed distances in mm (Z, Y, X) of the box.

    Args:
        points: Patient coordinates of the points (N, 3).
        radii_mm: Radius at each point (N,); it varies linearly in between.
    """
    line = np.array(points, float)
    margin = max(radii_mm) + 8
    box = canvas.box(line.min(0) - margin, line.max(0) + margin)
    distance = np.full(canvas.x[box].shape, FAR_MM, np.float32)
    starts = [span.start for span in box]
    for index in range(len(line) - 1):
        ends, radii = line[index : index + 2], radii_mm[index : index + 2]
        margin = max(radii) + 8
        inner = canvas.box(ends.min(0) - margin, ends.max(0) + margin)
        local = tuple(
            slice(span.start - start, span.stop - start) for span, start in zip(inner, starts, strict=True)
        )
        np.minimum(distance[local], _segment(canvas, inner, ends, radii), out=distance[local])
    return box, distance


def _segment(
    canvas: Canvas, box: Box, ends: np.ndarray, radii_mm: Sequence[float] | np.ndarray
) -> np.ndarray:
    direction = ends[1] - ends[0]
    squared_length = float(direction @ direction) or 1e-6
    x, y, z = (
        values[box] - np.float32(start)
        for values, start in zip((canvas.x, canvas.y, canvas.z), ends[0], strict=True)
    )
    a, b, c = (np.float32(component) for component in direction)
    fraction = np.clip((a * x + b * y + c * z) / np.float32(squared_length), 0, 1)
    square = (x - fraction * a) ** 2 + (y - fraction * b) ** 2 + (z - fraction * c) ** 2
    return np.sqrt(square) - (radii_mm[0] + fraction * np.float32(radii_mm[1] - radii_mm[0]))


Segment = tuple[np.ndarray, tuple[float, float]]
"""Start and end (2, 3) of a vessel segment in patient coordinates, and its radius in mm at both."""


def points_within(
    canvas: Canvas, shape: np.ndarray, depth_mm: float, tries: int, rng: np.random.Generator
) -> np.ndarray:
    """Random points inside a shape, in patient coordinates, (N, 3).

    Args:
        shape: Signed distances in mm on the whole canvas (Z, Y, X).
        depth_mm: Minimum distance of the points from the surface.
        tries: Number of random voxels of the canvas that are tried.
    """
    index = tuple((rng.random(tries) * count).astype(int) for count in shape.shape)
    inside = shape[index] < -depth_mm
    z, y, x = (indices[inside] for indices in index)
    return np.stack([values[z, y, x] for values in (canvas.x, canvas.y, canvas.z)], 1)


def grow_tree(root: Point, targets: np.ndarray, tip_mm: float, trunk_mm: float) -> list[Segment]:
    """A vessel tree from a root to every target.

    At every bifurcation the targets are halved along their longest direction, and each branch points to the
    centroid of its targets. Radii follow the number of targets (Murray's law, exponent 1/2.6).

    Args:
        targets: Ends of the tree in patient coordinates (N, 3).
        tip_mm: Radius at the targets.
        trunk_mm: Largest radius at the root.
    """
    segments: list[Segment] = []
    stack = [(np.array(root, float), targets, trunk_mm)]
    while stack:
        start, ends, max_radius = stack.pop()
        if not len(ends):
            continue
        centroid = ends.mean(0)
        end = ends[0] if len(ends) == 1 else start + 0.45 * (centroid - start)
        radius = min(tip_mm * len(ends) ** (1 / 2.6), max_radius)
        segments.append((np.stack([start, end]), (radius, radius * 0.9)))
        if len(ends) == 1:
            continue
        centred = ends - centroid
        longest = np.linalg.eigh(centred.T @ centred)[1][:, -1]
        order = np.argsort(centred @ longest, kind="stable")
        half = len(ends) // 2
        stack += [(end, ends[order[:half]], radius * 0.95), (end, ends[order[half:]], radius * 0.95)]
    return segments


def paint_tree(
    canvas: Canvas, segments: list[Segment], hu: float, within: np.ndarray, wider_mm: float = 0.0
) -> None:
    """Draw a vessel tree inside a shape; the labels are kept.

    Args:
        within: Signed distances of the shape in mm on the whole canvas (Z, Y, X).
        wider_mm: Added to the radii.
    """
    for ends, radii in segments:
        margin = max(radii) + wider_mm
        box = canvas.box(ends.min(0) - margin, ends.max(0) + margin)
        if canvas.x[box].size:
            distance = _segment(canvas, box, ends, radii) - wider_mm
            canvas.paint(np.maximum(distance, within[box]), hu, box=box)


def rotation_about(axis: str, degrees: float) -> np.ndarray:
    """Rotation matrix (3, 3) about the x, y or z axis of the patient."""
    angle = np.deg2rad(degrees)
    cosine, sine = np.cos(angle), np.sin(angle)
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[[first, second], [first, second]] = cosine
    matrix[first, second], matrix[second, first] = -sine, sine
    return matrix
