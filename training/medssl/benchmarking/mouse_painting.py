"""A simulated user who paints with a mouse: the strokes that change labels, and the seconds that they take.

Like the simulated annotator of RootPainter (Smith et al., "RootPainter: deep learning segmentation of
biological images with corrective annotation", New Phytologist 236, 2022), but corrections cost time. A brush
of one pixel traces the outlines; a wider brush that stays inside paints the rest.

The seconds are those of the keystroke-level model (Card, Moran and Newell, "The keystroke-level model for
user performance time with interactive systems", Communications of the ACM 23, 1980): the operators K (key),
P (pointing with the mouse), B (button), M (mental preparation) and D (drawing). That model draws at a fixed
speed. Along an outline the steering law limits the speed (Accot and Zhai, "Beyond Fitts' law: models for
trajectory-based HCI tasks", CHI 1997): the time grows with the length of a path divided by its width, which
is a pixel of the scan here, because labels are as fine as that. So an outline takes as long however large
the slice is shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from medssl.core.labels.rasterize import stroke_mask

KEY_S = 0.28
"""Seconds to press a key, by an average typist: K."""
POINT_S = 1.1
"""Seconds to move the mouse to the start of a stroke or to a button: P."""
BUTTON_S = 0.2
"""Seconds to press and release the mouse button: 2 B."""
LOOK_S = 1.35
"""Seconds to look at a slice and to decide what to do: M."""
DRAW_S_PER_CM = 0.16
"""Seconds for a centimetre on the screen where the stroke need not be exact: D."""
STEERING_S = 0.08
"""Seconds for a stretch of an outline as long as the path is wide. Assumed: it depends on device, path and
person, so benchmarks say what becomes of their figures if it is half or twice as much."""
CANVAS_CM = 20.0
"""Length on the screen of the longer side of a slice."""
TRIES = 6
"""Ends of rows, the nearest first, to which a stroke may go on."""
BRUSH_RADII_PIXELS = (1.5, 2.5, 5.5, 10.5)
"""Radii of the brushes among which the user takes the quickest one for the inside."""


@dataclass(frozen=True)
class Stroke:
    """One movement of the mouse with the button held down."""

    vertices: np.ndarray
    """Points in pixels (row, column), float64 (N, 2)."""
    radius_mm: float
    """Radius of the brush; 0 for a brush of one pixel, which follows an outline."""


@dataclass(frozen=True)
class Effort:
    """What a user has done."""

    traced_s: float = 0.0
    """Seconds of drawing along outlines."""
    filled_s: float = 0.0
    """Seconds of drawing elsewhere."""
    clicks: int = 0
    """Strokes, and clicks on buttons and sliders: each is pointed at first."""
    keys: int = 0
    looks: int = 0
    """Slices that were looked at."""

    def __add__(self, other: Effort) -> Effort:
        return Effort(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    @property
    def seconds(self) -> float:
        """Duration of all of it."""
        clicks, keys, looks = self.clicks * (POINT_S + BUTTON_S), self.keys * KEY_S, self.looks * LOOK_S
        return self.traced_s + self.filled_s + clicks + keys + looks


def paint(current: np.ndarray, target: np.ndarray, spacing_mm: Sequence[float]) -> tuple[np.ndarray, Effort]:
    """Change a slice into another one by strokes: wrong pixels are erased or painted over, class by class.

    A class is painted anew where that is quicker than to correct it.

    Args:
        current: Labels in the slice, uint8 (rows, columns); 0 is unlabelled.
        target: Labels that the slice is to have, uint8 (rows, columns).
        spacing_mm: Pixel spacing along (rows, columns).

    Returns:
        The labels after the strokes, uint8 (rows, columns), and what they took. For each label the class, or
        the eraser, is chosen by a click, and the brush is changed by two keys where two are used.
    """
    result, effort = current.copy(), Effort()
    for label in np.unique(target[target != current]):
        allowed = target == label
        need = allowed & (current != label)
        ways = [quickest(each, allowed, spacing_mm) for each in ([need, allowed] if label else [need])]
        strokes = min(ways, key=lambda way: drawing(way, spacing_mm, target.shape).seconds)
        result[_covered(strokes, spacing_mm, target.shape)] = label
        brushes = len({stroke.radius_mm for stroke in strokes})
        effort += drawing(strokes, spacing_mm, target.shape) + Effort(clicks=1, keys=2 * (brushes - 1))
    return result, effort


def drawing(strokes: Sequence[Stroke], spacing_mm: Sequence[float], shape: Sequence[int]) -> Effort:
    """What strokes take in a slice of `shape` pixels that fills the canvas."""
    spacing = np.asarray(spacing_mm)
    cm_per_mm = CANVAS_CM / float((spacing * shape).max())
    steering = STEERING_S / (float(spacing.min()) * cm_per_mm)
    traced = filled = 0.0
    for stroke in strokes:
        length_cm = (
            float(np.linalg.norm(np.diff(stroke.vertices, axis=0) * spacing, axis=1).sum()) * cm_per_mm
        )
        if stroke.radius_mm:
            filled += length_cm * DRAW_S_PER_CM
        else:
            traced += length_cm * max(DRAW_S_PER_CM, steering)
    return Effort(traced_s=traced, filled_s=filled, clicks=len(strokes))


def quickest(need: np.ndarray, allowed: np.ndarray, spacing_mm: Sequence[float]) -> list[Stroke]:
    """The strokes that cover some pixels, and none outside of others, with the brush that is quickest inside.

    Args:
        need: Pixels to cover, bool (rows, columns).
        allowed: Pixels that may be covered, bool (rows, columns), with all of `need`.
        spacing_mm: Pixel spacing along (rows, columns).
    """
    outlines = [Stroke(path, 0.0) for path in _along_edge(need, allowed)]
    inside = need & ~_covered(outlines, spacing_mm, need.shape)
    ways = [_inside(inside, allowed, radius * min(spacing_mm), spacing_mm) for radius in BRUSH_RADII_PIXELS]
    return [*outlines, *min(ways, key=lambda way: drawing(way, spacing_mm, need.shape).seconds)]


def _inside(
    need: np.ndarray, allowed: np.ndarray, radius_mm: float, spacing_mm: Sequence[float]
) -> list[Stroke]:
    """Strokes along the edge, then in rows, then with a brush of one pixel what is left."""
    half_step_mm = math.hypot(*spacing_mm) / 2  # between pixels the brush reaches farther than from them
    centres = allowed if allowed.all() else _distance(allowed, spacing_mm) > np.hypot(radius_mm, half_step_mm)
    along = _along_edge(_nearest(need, centres, radius_mm, spacing_mm), centres)
    strokes = [Stroke(path, radius_mm) for path in along]
    left = need & ~_covered(strokes, spacing_mm, need.shape)
    step = int(radius_mm * np.sqrt(2) / spacing_mm[0])
    rows = _joined(
        _rows(_nearest(left, centres, radius_mm, spacing_mm), step), allowed, radius_mm, spacing_mm
    )
    left &= ~_covered(rows, spacing_mm, need.shape)
    return [*strokes, *rows, *_joined(_rows(left, 1), allowed, 0.0, spacing_mm)]


def _covered(strokes: Sequence[Stroke], spacing_mm: Sequence[float], shape: Sequence[int]) -> np.ndarray:
    mask = np.zeros(tuple(shape), bool)
    for stroke in strokes:
        mask |= stroke_mask(stroke.vertices, stroke.radius_mm, spacing_mm, shape)
    return mask


def _along_edge(need: np.ndarray, area: np.ndarray) -> Iterator[np.ndarray]:
    """Paths (N, 2) along those boundary pixels of an area (rows, columns) that are needed.

    A stroke goes on over pixels that need nothing where that is quicker than a new stroke.
    """
    from skimage.measure import find_contours  # imported late: it takes a tenth of a second

    for contour in find_contours(area.astype(np.float32), 0.5):
        low, high = np.floor(contour).astype(int), np.ceil(contour).astype(int)
        pixels = np.where(area[tuple(low.T)][:, None], low, high)  # the one of the area beside each point
        pixels = pixels[np.r_[True, (np.diff(pixels, axis=0) != 0).any(1)]]
        wanted = need[tuple(pixels.T)]
        if (pixels[0] == pixels[-1]).all() and not wanted.all():  # a closed path starts after its longest gap
            start = _longest_gap_end(wanted[:-1])
            pixels, wanted = np.roll(pixels[:-1], -start, axis=0), np.roll(wanted[:-1], -start)
        numbers = np.flatnonzero(wanted)
        if len(numbers):
            gaps = np.flatnonzero(np.diff(numbers) * STEERING_S > POINT_S + BUTTON_S)
            for part in np.split(numbers, gaps + 1):
                yield _corners(pixels[part[0] : part[-1] + 1])


def _corners(pixels: np.ndarray) -> np.ndarray:
    """A path (N, 2) without the points at which it goes straight on."""
    steps = np.diff(pixels, axis=0)
    turns = (steps[1:] != steps[:-1]).any(1)
    return pixels[np.r_[True, turns, len(pixels) > 1][: len(pixels)]].astype(float)


def _longest_gap_end(wanted: np.ndarray) -> int:
    """Index after the longest run of False in a closed sequence (N,)."""
    numbers = np.flatnonzero(wanted)
    if not len(numbers):
        return 0
    return int(numbers[np.diff(numbers, prepend=numbers[-1] - len(wanted)).argmax()])


def _nearest(
    need: np.ndarray, centres: np.ndarray, radius_mm: float, spacing_mm: Sequence[float]
) -> np.ndarray:
    """Those centres of a brush (rows, columns) that are nearest to the needed pixels, and cover them."""
    from scipy.ndimage import distance_transform_edt  # imported late: it takes a third of a second

    mask = np.zeros_like(centres)
    if centres.any():
        distance, nearest = distance_transform_edt(~centres, sampling=spacing_mm, return_indices=True)
        mask[tuple(nearest[:, need & (distance <= radius_mm)])] = True
    return mask


def _rows(centres: np.ndarray, step: int) -> list[np.ndarray]:
    """Both ends (2, 2) of each run of pixels in every `step`-th row of a mask, and in its last row."""
    rows = np.flatnonzero(centres.any(1))
    chosen = sorted({*rows[:: max(step, 1)].tolist(), *rows[-1:].tolist()})
    return [
        np.array([[row, run[0]], [row, run[-1]]], float)
        for row in chosen
        for run in _runs(np.flatnonzero(centres[row]))
    ]


def _joined(
    ends: list[np.ndarray], allowed: np.ndarray, radius_mm: float, spacing_mm: Sequence[float]
) -> list[Stroke]:
    """Strokes through all runs, each going on with the nearest one that it can reach without a mistake."""
    strokes = []
    while ends:
        path = ends.pop(0)
        while (found := _next(path[-1], ends, allowed, radius_mm, spacing_mm)) is not None:
            number, end = found
            run = ends.pop(number)
            path = np.concatenate([path, run[::-1] if end else run])
        strokes.append(Stroke(path, radius_mm))
    return strokes


def _next(
    point: np.ndarray,
    ends: Sequence[np.ndarray],
    allowed: np.ndarray,
    radius_mm: float,
    spacing_mm: Sequence[float],
) -> tuple[int, int] | None:
    """The nearest end that can be reached from a point (2,): number of its run, 0 or 1."""
    if not ends:
        return None
    distances = np.linalg.norm((np.stack(ends) - point) * spacing_mm, axis=-1)
    for index in np.argsort(distances, axis=None, kind="stable")[:TRIES]:
        number, end = divmod(int(index), 2)
        way = stroke_mask(np.stack([point, ends[number][end]]), radius_mm, spacing_mm, allowed.shape)
        if not (way & ~allowed).any():
            return number, end
    return None


def _runs(numbers: np.ndarray) -> list[np.ndarray]:
    """Runs of consecutive numbers in ascending ones (N,)."""
    return np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)


def _distance(mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Distance of each pixel of a mask (rows, columns) to the nearest pixel outside of it, in mm."""
    from scipy.ndimage import distance_transform_edt  # imported late: it takes a third of a second

    distance: np.ndarray = distance_transform_edt(mask, sampling=spacing_mm)
    return distance
