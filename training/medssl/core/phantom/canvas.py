"""What the phantom is drawn with: shapes as distances in mm, painted with soft edges.

A shape is an array of approximate signed distances in mm, negative inside. It is painted into the
scan with an edge about one voxel wide (partial volume) and into the labels with a sharp one. Points
are (x, y, z) in mm of the patient: x towards the right, y anterior, z superior, so that a person's
anatomy can be written down once and drawn on any grid.
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
    """A smooth random field (Z, Y, X), float32, mean 0 and deviation about 1.

    Cubic B-splines on a coarse grid that is fixed in mm, so the same generator state gives the same
    field whatever the voxel size. It repeats after 12 wavelengths.

    axes_mm: the z, y and x coordinates of the voxels.
    """
    knots = 24
    field = rng.standard_normal((knots,) * 3).astype(np.float32)
    for coordinates in axes_mm:
        position = coordinates / (wavelength_mm / 2)
        apart = np.abs(position[:, None] - np.arange(knots)[None]) % knots
        apart = np.minimum(apart, knots - apart)
        near = 2 / 3 - apart**2 + apart**3 / 2
        far = np.maximum(2 - apart, 0) ** 3 / 6
        basis = np.where(apart < 1, near, far).astype(np.float32)
        # A B-spline sum of white noise has the deviation 0.692 per axis, averaged over positions.
        field = np.tensordot(field, basis / np.float32(0.692), axes=(0, 1))
    return field


def plateau(values: np.ndarray) -> np.ndarray:
    """exp(-values⁴): 1 around 0, falling to almost 0 at 1.5, flatter on top than a Gaussian."""
    square = values * values
    return np.exp(-square * square)


def smooth_max(first: np.ndarray, second: np.ndarray, rounding_mm: float) -> np.ndarray:
    """Intersection of two shapes with its crease rounded off over about `rounding_mm`."""
    blend = np.maximum(rounding_mm - np.abs(first - second), 0)
    return np.maximum(first, second) + blend * blend / (4 * rounding_mm)


def smooth_min(first: np.ndarray, second: np.ndarray, rounding_mm: float) -> np.ndarray:
    """Union of two shapes with its crease filled over about `rounding_mm`."""
    return -smooth_max(-first, -second, rounding_mm)


@dataclass(frozen=True)
class Canvas:
    """The scan being drawn. Arrays are (Z, Y, X) in canonical order.

    axes_mm: z, y, x of the voxel centres in the scanner's frame. x, y, z: where each voxel lies in the
    patient's frame, mm, after the patient's own size, tilt and smooth deformation. `turn` and `origin`
    take patient to scanner approximately (without the deformation, at most `slack_mm`).
    """

    axes_mm: tuple[np.ndarray, np.ndarray, np.ndarray]
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    hu: np.ndarray
    labels: np.ndarray
    edge_mm: float
    turn: np.ndarray
    origin: np.ndarray
    slack_mm: float

    def box(self, low: Point, high: Point) -> Box:
        """Voxels that may lie between two opposite corners given in the patient's frame."""
        low, high = np.asarray(low), np.asarray(high)
        middle = self.turn @ (low + high) / 2 + self.origin
        reach = np.abs(self.turn) @ (high - low) / 2 + self.slack_mm + self.edge_mm
        bounds = zip((middle - reach)[::-1], (middle + reach)[::-1], strict=True)
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
        """A smooth random field on the voxels of a box."""
        axes = [axis[part] for axis, part in zip(self.axes_mm, box, strict=True)]
        return smooth_field(rng, axes, wavelength_mm)

    def paint(
        self,
        distance: np.ndarray,
        hu: float | np.ndarray,
        label: int | None = None,
        box: Box = WHOLE,
    ) -> None:
        """Put a shape over what is there. label None leaves the labels as they are."""
        part = self.hu[box]
        cover = np.clip(0.5 - distance / self.edge_mm, 0, 1)
        part += cover * (hu - part)
        if label is not None:
            self.labels[box][distance < 0] = label


def ellipsoid(
    canvas: Canvas, center: Point, radii: Point, turn: np.ndarray | None = None
) -> tuple[Box, np.ndarray]:
    """Box and distance (about mm) of an ellipsoid; `turn` (3, 3): its own axes as rows."""
    turn = np.eye(3) if turn is None else turn
    reach = np.sqrt(((turn * np.array(radii)[:, None]) ** 2).sum(0)) + 2 * canvas.edge_mm + 8
    box = canvas.box(np.array(center) - reach, np.array(center) + reach)
    return box, ellipsoid_at(canvas, box, center, radii, turn)


def ellipsoid_at(
    canvas: Canvas, box: Box, center: Point, radii: Point, turn: np.ndarray | None = None
) -> np.ndarray:
    """The distance of `ellipsoid` on the voxels of a given box."""
    x, y, z = canvas.x[box] - center[0], canvas.y[box] - center[1], canvas.z[box] - center[2]
    turn = np.eye(3) if turn is None else turn
    square = np.zeros_like(x)
    steep = np.zeros_like(x)
    for axis, radius in zip(turn.astype(np.float32), radii, strict=True):
        along = (axis[0] * x + axis[1] * y + axis[2] * z) / np.float32(radius)
        square += along**2
        steep += (along / np.float32(radius)) ** 2
    root = np.sqrt(square)
    return root * (root - 1) / np.maximum(np.sqrt(steep), 1e-4)


def tube(
    canvas: Canvas, points: Sequence[Point] | np.ndarray, radii_mm: Sequence[float] | np.ndarray
) -> tuple[Box, np.ndarray]:
    """Box and distance of a tube along a line of points, its radius changing from point to point."""
    line = np.array(points, float)
    reach = max(radii_mm) + 8
    box = canvas.box(line.min(0) - reach, line.max(0) + reach)
    distance = np.full(canvas.x[box].shape, FAR_MM, np.float32)
    starts = [part.start for part in box]
    for index in range(len(line) - 1):
        ends, radii = line[index : index + 2], radii_mm[index : index + 2]
        near = max(radii) + 8
        inner = canvas.box(ends.min(0) - near, ends.max(0) + near)
        local = tuple(
            slice(part.start - start, part.stop - start) for part, start in zip(inner, starts, strict=True)
        )
        np.minimum(distance[local], _segment(canvas, inner, ends, radii), out=distance[local])
    return box, distance


def _segment(
    canvas: Canvas, box: Box, ends: np.ndarray, radii_mm: Sequence[float] | np.ndarray
) -> np.ndarray:
    along = ends[1] - ends[0]
    length = float(along @ along) or 1e-6
    x, y, z = (
        values[box] - np.float32(start)
        for values, start in zip((canvas.x, canvas.y, canvas.z), ends[0], strict=True)
    )
    a, b, c = (np.float32(component) for component in along)
    where = np.clip((a * x + b * y + c * z) / np.float32(length), 0, 1)
    gap = (x - where * a) ** 2 + (y - where * b) ** 2 + (z - where * c) ** 2
    return np.sqrt(gap) - (radii_mm[0] + where * np.float32(radii_mm[1] - radii_mm[0]))


Piece = tuple[np.ndarray, tuple[float, float]]


def points_within(
    canvas: Canvas, shape: np.ndarray, depth_mm: float, tries: int, rng: np.random.Generator
) -> np.ndarray:
    """Random places (N, 3) at least `depth_mm` inside a shape that covers the whole canvas."""
    index = tuple((rng.random(tries) * count).astype(int) for count in shape.shape)
    inside = shape[index] < -depth_mm
    z, y, x = (part[inside] for part in index)
    return np.stack([values[z, y, x] for values in (canvas.x, canvas.y, canvas.z)], 1)


def grow_tree(root: Point, targets: np.ndarray, tip_mm: float, trunk_mm: float) -> list[Piece]:
    """A vessel tree from `root` to every target, pieces of (start and end (2, 3), radius at both).

    The targets are halved along their longest direction at every fork, and a branch heads for the
    middle of what it feeds; radii follow the number of tips fed (Murray's law, exponent 1/2.6).
    """
    pieces: list[Piece] = []
    waiting = [(np.array(root, float), targets, trunk_mm)]
    while waiting:
        start, fed, radius = waiting.pop()
        if not len(fed):
            continue
        middle = fed.mean(0)
        end = fed[0] if len(fed) == 1 else start + 0.45 * (middle - start)
        width = min(tip_mm * len(fed) ** (1 / 2.6), radius)
        pieces.append((np.stack([start, end]), (width, width * 0.9)))
        if len(fed) == 1:
            continue
        spread = fed - middle
        longest = np.linalg.eigh(spread.T @ spread)[1][:, -1]
        order = np.argsort(spread @ longest, kind="stable")
        half = len(fed) // 2
        waiting += [(end, fed[order[:half]], width * 0.95), (end, fed[order[half:]], width * 0.95)]
    return pieces


def paint_tree(
    canvas: Canvas, pieces: list[Piece], hu: float, within: np.ndarray, wider_mm: float = 0.0
) -> None:
    """Paint a tree where the shape `within` (whole canvas) is; the labels stay."""
    for ends, radii in pieces:
        reach = max(radii) + wider_mm
        box = canvas.box(ends.min(0) - reach, ends.max(0) + reach)
        if canvas.x[box].size:
            distance = _segment(canvas, box, ends, radii) - wider_mm
            canvas.paint(np.maximum(distance, within[box]), hu, box=box)


def turn_about(axis: str, degrees: float) -> np.ndarray:
    """Rotation (3, 3) about the patient's x, y or z axis."""
    angle = np.deg2rad(degrees)
    cosine, sine = np.cos(angle), np.sin(angle)
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[[first, second], [first, second]] = cosine
    matrix[first, second], matrix[second, first] = -sine, sine
    return matrix
