"""Stomach, pancreas, small and large bowel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medssl.core.phantom.canvas import Canvas, Point, smooth_max, tube
from medssl.core.phantom.person import Person
from medssl.core.phantom.trunk import AIR, FAT


def draw_stomach(
    canvas: Canvas, person: Person, inner: np.ndarray, diaphragm: np.ndarray, rng: np.random.Generator
) -> None:
    """Draw the stomach under the left dome of the diaphragm: folded wall, fluid, and gas at the front.

    Args:
        inner: Depth below the inner wall of the trunk in mm, positive inside (Z, Y, X).
        diaphragm: Height of the diaphragm in mm above or below each voxel (Z, Y, X).
    """
    fill = float(rng.uniform(0.78, 1.12))
    lift = 0.5 * person.breath_mm
    line: list[Point] = [
        (-62, -14, 28 + lift),
        (-66, 14, 2 + lift),
        (-54, 40, -28),
        (-22, 52, -46),
        (10, 46, -46),
        (30, 34, -38),
    ]
    box, outer = tube(canvas, line, tuple(fill * radius for radius in (30, 30, 25, 19, 13, 9)))
    rough = canvas.field(rng, 32, box)
    outer = smooth_max(outer + 2.5 * rough, 7.0 - inner[box], 6)
    outer = smooth_max(outer, (canvas.z[box] - diaphragm[box] + 2) / 1.8, 6)
    canvas.paint(outer, person.hu(40, 82), 0, box)
    folds = 1.7 * np.abs(canvas.field(rng, 14, box))
    lumen = outer + 3.2 + folds
    fluid = 190.0 if person.oral_contrast else float(rng.uniform(4, 24))
    food = 14 * canvas.field(rng, 12, box)
    canvas.paint(lumen, fluid + food, 0, box)
    level = float(rng.uniform(18, 58))
    canvas.paint(np.maximum(lumen + 0.5, level - canvas.y[box]), AIR + 30, 0, box)


def draw_pancreas(canvas: Canvas, person: Person, rng: np.random.Generator) -> None:
    """Draw the pancreas from the duodenum to the spleen, with the splenic and the portal vein behind it."""
    tail = float(rng.normal(6, 5))
    line: list[Point] = [
        (30, 16, -46),
        (24, 18, -30),
        (4, 22, -16),
        (-26, 12, -6),
        (-54, -10, tail),
        (-66, -18, tail + 4),
    ]
    box, distance = tube(canvas, line, (12, 12, 8.5, 8.5, 8.5, 6))
    lobes = 2.2 * canvas.field(rng, 11, box)
    canvas.paint(distance + lobes, person.hu(38, 92) - 8 * np.clip(lobes, 0, 3), 0, box)
    duodenum: list[Point] = [(30, 34, -38), (42, 20, -46), (43, 4, -76), (26, 2, -92), (-14, 6, -88)]
    box, distance = tube(canvas, duodenum, (10, 11, 11.5, 11, 10))
    canvas.paint(np.where(canvas.labels[box] > 0, distance - 5, 9), FAT + 20, 0, box)  # not in the liver
    _bowel_tube(canvas, person, duodenum, (10, 11, 11.5, 11, 10), rng, gas=False)
    vein = person.hu(40, 158)
    for points, radii in (
        ([(-58, -16, tail), (-26, 4, -8), (10, 10, -20)], (3.4, 4, 4.8)),
        ([(10, 12, -110), (12, 14, -60), (11, 10, -20), (36, 8, -4)], (4.5, 5.2, 6.4, 6.6)),
        ([(-2, -6, -20), (-2, 10, -40), (0, 16, -105)], (3.6, 3.4, 2.8)),
    ):
        box, distance = tube(canvas, points, radii)
        canvas.paint(np.where(canvas.labels[box] > 0, 9, distance), vein, box=box)


def draw_bowel(canvas: Canvas, person: Person, inner: np.ndarray, rng: np.random.Generator) -> None:
    """Draw loops of small bowel with mesenteric vessels, and the colon.

    Args:
        inner: Depth below the inner wall of the trunk in mm, positive inside (Z, Y, X).
    """
    for _ in range(26):
        start = np.array([rng.uniform(-8, 14), rng.uniform(0, 24), rng.uniform(-120, -50)])
        end = start + np.array([rng.normal(0, 45), rng.uniform(10, 45), rng.normal(-20, 25)])
        box, distance = tube(canvas, [start, (start + end) / 2, end], (2.2, 1.7, 1.0))
        if distance.size:
            canvas.paint(distance, person.hu(35, 120), box=box)
    loops = int(rng.integers(24, 30))
    for number in range(loops):
        _bowel_tube(
            canvas,
            person,
            _loop(rng, -88 + 176 * (number * 0.618 % 1)),
            rng.uniform(8.5, 13, 12),
            rng,
            gas=rng.random() < 0.25,
            wall=inner,
        )
    _colon(canvas, person, inner, rng)


def _loop(rng: np.random.Generator, start_x: float) -> list[Point]:
    """A random walk in the lower abdomen, reflected at its bounds; 12 points (3,)."""
    position = np.array([start_x, rng.uniform(0, 62), rng.uniform(-175, -62)])
    heading = rng.standard_normal(3)
    points: list[Point] = []
    for _ in range(12):
        heading = 0.72 * heading + 0.75 * rng.standard_normal(3)
        heading /= np.linalg.norm(heading)
        position = position + 19 * heading
        low, high = np.array([-92, -8, -190]), np.array([92, 68, -60])
        reflected = np.where(position > high, -np.abs(heading), heading)
        heading = np.where(position < low, np.abs(heading), reflected)
        position = np.clip(position, low, high)
        points.append(position)
    return points


def _bowel_tube(
    canvas: Canvas,
    person: Person,
    line: list[Point],
    radii: Sequence[float] | np.ndarray,
    rng: np.random.Generator,
    gas: bool,
    wall: np.ndarray | None = None,
) -> None:
    box, distance = tube(canvas, line, radii)
    if not distance.size:
        return
    if wall is not None:
        distance = smooth_max(distance, 4.0 - wall[box], 4)
    lumen = 185.0 if person.oral_contrast and rng.random() < 0.6 else float(rng.uniform(8, 34))
    canvas.paint(distance, person.hu(40, 96), 0, box)
    canvas.paint(distance + 3.4, lumen, 0, box)
    if gas:
        level = float(np.mean([point[1] for point in line])) + 4
        canvas.paint(np.maximum(distance + 4, level - canvas.y[box]), AIR + 60, 0, box)


def _colon(canvas: Canvas, person: Person, inner: np.ndarray, rng: np.random.Generator) -> None:
    sag = float(rng.normal(-92, 10))
    line: list[Point] = [
        (100, -4, -190),
        (110, 0, -140),
        (106, 10, -100),
        (78, 46, -82),
        (40, 64, sag),
        (0, 70, sag - 8),
    ]
    line += [
        (-44, 62, sag + 8),
        (-82, 34, -56),
        (-104, 2, -34),
        (-116, -14, -70),
        (-118, -10, -130),
        (-104, 0, -190),
    ]
    radii = [24, 23, 22, 20, 19, 19, 18, 18, 17, 15, 14, 14]
    dense_line, dense_radii = _haustra(np.array(line), np.array(radii) * rng.uniform(0.88, 1.08), rng)
    box, distance = tube(canvas, dense_line, dense_radii)
    distance = smooth_max(distance, 4.0 - inner[box], 5)
    canvas.paint(distance, person.hu(40, 86), 0, box)
    lumen = distance + 2.8
    stool = 30 + 25 * canvas.field(rng, 10, box)
    canvas.paint(lumen, stool, 0, box)
    bubbles = canvas.field(rng, 9, box)
    canvas.paint(np.maximum(lumen + 2, (1.0 - bubbles) * 5), -600.0, 0, box)
    # Gas rises to the front: to a higher level in the transverse colon than in the parts at the flanks.
    flank = np.clip((np.abs(canvas.x[box]) - 58) / 30, 0, 1)
    level = 56 - 48 * flank + 10 * canvas.field(rng, 120, box)
    canvas.paint(np.maximum(lumen + 0.8, level - canvas.y[box]), AIR + 25, 0, box)


def _haustra(line: np.ndarray, radii: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) every 9 mm along the colon and radii (N,) that oscillate like its haustra."""
    steps = np.linalg.norm(np.diff(line, axis=0), axis=1)
    arc_length = np.concatenate([[0], np.cumsum(steps)])
    samples = np.arange(0, arc_length[-1], 9.0)
    points = np.stack([np.interp(samples, arc_length, line[:, axis]) for axis in range(3)], 1)
    bulges = 1 + 0.13 * np.sin(samples / 5.2 + rng.uniform(0, 6)) + 0.05 * rng.standard_normal(len(samples))
    return points, np.interp(samples, arc_length, radii) * bulges
