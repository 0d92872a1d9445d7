"""Skin, fat, muscles, ribs, spine, pelvis and table."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from medssl.core.phantom.canvas import Canvas, Point, plateau, smooth_max, smooth_min, tube
from medssl.core.phantom.person import Person

FAT, MUSCLE, CORTEX, AIR = -102.0, 54.0, 620.0, -1000.0
RIB_PITCH_MM = 27.0
RIB_12_MM = 8.0  # height of the head of the twelfth rib
LUMBAR_PITCH_MM = 33.0


def depth_below_skin(canvas: Canvas, person: Person, rng: np.random.Generator) -> np.ndarray:
    """Distance from the skin in mm, positive inside the body, (Z, Y, X)."""
    x, y, z = canvas.x, canvas.y, canvas.z
    waist = np.exp(-(((z + 45) / 60) ** 2))
    chest = 1 / (1 + np.exp(-(z - 20) / 25))
    half_width = 151 + person.fat_mm - 9 * waist - 2 * chest
    half_depth = 97 + person.fat_mm + 3 * chest - 4 * waist
    across, along = np.abs(x) / half_width, np.abs(y) / half_depth
    radius = (across**2.45 + along**2.45) ** np.float32(1 / 2.45)
    depth = np.sqrt(x * x + y * y + 1) * (1 / np.maximum(radius, 0.02) - 1)
    back = np.clip(-y / 60, 0, 1)
    depth -= 6 * np.exp(-((x / 15) ** 2)) * back
    depth += 1.2 * canvas.field(rng, 110)
    return depth


def draw_walls(canvas: Canvas, person: Person, depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw skin, fat and the muscular wall.

    Args:
        depth: Distance from the skin in mm, positive inside the body (Z, Y, X).

    Returns:
        Depth below the inner wall in mm, positive in the body cavity, (Z, Y, X).
    """
    x, y, z = canvas.x, canvas.y, canvas.z
    below = 1 / (1 + np.exp((z - 20) / 30))
    around = y / np.sqrt(x * x + y * y + 1)  # 1 in front, -1 at the back
    thickness = person.fat_mm * (0.62 + 0.5 * below + 0.25 * below * np.abs(around) ** 2)
    thickness = thickness * (1 + 0.13 * canvas.field(rng, 70)) + 2
    muscle = depth - thickness
    back = np.clip(-(y + 25) / 30, 0, 1)
    beside_spine = plateau((np.abs(x) - 33) / 30)
    wall = 14.5 + 2.5 * (1 - below) + 23 * back * beside_spine
    wall += 3.5 * below * plateau((np.abs(x) - 32) / 26) * (y > 0)
    inner = muscle - wall * (1 + 0.07 * canvas.field(rng, 60))

    canvas.paint(-depth, 35.0)
    canvas.paint(2.4 - depth, FAT)
    canvas.paint(-muscle, MUSCLE)
    _fat_between_muscles(canvas, muscle, inner, below, rng)
    canvas.paint(-inner, FAT - 3)
    return inner


def _fat_between_muscles(
    canvas: Canvas, muscle: np.ndarray, inner: np.ndarray, below: np.ndarray, rng: np.random.Generator
) -> None:
    """Draw sheets of fat: between the layers of the wall, at the linea alba and around the back muscles."""
    sheet = np.abs(muscle - 0.5 * (muscle - inner) - 1.5 * canvas.field(rng, 45))
    front = canvas.y > 0
    flank = plateau((np.abs(canvas.x) - 110) / 45)
    canvas.paint(sheet - 0.3 + 3 * (1 - flank), FAT + 30)
    linea_alba = np.abs(canvas.x) - 2.2 * below
    canvas.paint(np.where(front & (muscle > 0) & (inner < 0), linea_alba, 9), FAT + 55)
    behind = (canvas.y < -20) & (muscle > 0) & (inner < 0)
    marbling = 2.2 - np.abs(canvas.field(rng, 26)) * 9
    canvas.paint(np.where(behind, -marbling + 1.2, 9), FAT + 70)


def draw_back_muscles(canvas: Canvas, person: Person) -> None:
    """Draw psoas and quadratus lumborum beside the lumbar spine."""
    for side in (-1, 1):
        psoas: list[Point] = []
        course = ((10, 25, 2), (-40, 33, 6), (-90, 41, 9), (-135, 50, 6), (-185, 60, 2))
        for height, out, ahead in course:
            middle = float(person.spine_y(height))
            psoas.append((float(person.spine_x(height)) + side * out, middle + ahead, height))
        box, distance = tube(canvas, psoas, (6, 12, 17, 19, 19))
        canvas.paint(distance, MUSCLE, box=box)
        quadratus: list[Point] = [(side * 52, -64, -5), (side * 62, -63, -70), (side * 66, -60, -125)]
        box, distance = tube(canvas, quadratus, (7, 11, 11))
        canvas.paint(distance, MUSCLE, box=box)


def draw_ribs(canvas: Canvas, person: Person, inner: np.ndarray) -> None:
    """Draw ribs 12 to 3, descending from the spine, with cartilage ascending to the sternum.

    Args:
        inner: Depth below the inner wall of the trunk in mm, positive inside (Z, Y, X).
    """
    box = canvas.box((-190, -140, -90), (190, 140, 260))
    x, y, z, depth = canvas.x[box], canvas.y[box], canvas.z[box], inner[box]
    angle = np.arctan2(np.abs(x), -(y + 8))  # 0 at the spine, pi at the sternum
    fall = 42 * np.minimum(angle, 2.15) - 58 * np.clip(angle - 2.15, 0, 1)
    height = z + fall - RIB_12_MM
    number = np.clip(np.round(height / RIB_PITCH_MM), 0, 12)
    offset = height - number * RIB_PITCH_MM
    upright = np.clip(0.5 + 0.5 * np.abs(np.cos(angle)), 0.72, 1)  # steep ribs look taller in z
    shape = np.sqrt((offset * upright / 1.2) ** 2 + (depth + 5.6) ** 2) - 4.2
    end = np.interp(number, [0, 1, 2, 3, 4, 5], [0.95, 1.5, 2.75, 2.85, 2.95, 3.05])
    shape = np.maximum(shape, (angle - end) * 60)
    shape = np.maximum(shape, (0.22 - angle) * 60)
    bone_end = np.interp(number, [2, 4, 8], [2.0, 2.25, 2.55])
    cartilage = np.clip((angle - bone_end) / 0.06, 0, 1)
    marrow = np.clip(-shape / 2.6, 0, 1)
    bone = CORTEX * (1 - marrow) + (person.bone_hu + 20) * marrow
    canvas.paint(shape, bone + cartilage * (95 - bone), box=box)
    _sternum(canvas, person, inner)


def _sternum(canvas: Canvas, person: Person, inner: np.ndarray) -> None:
    box = canvas.box((-30, 30, 55), (30, 140, 260))
    x, z, depth = canvas.x[box], canvas.z[box], inner[box]
    width = np.interp(z, [58, 72, 95, 130], [3, 8, 17, 15]).astype(np.float32)
    shape = smooth_max(np.abs(x) - width, np.abs(depth + 8) - 5.5, 4)
    shape = np.maximum(shape, 60 - z)
    marrow = np.clip(-shape / 3, 0, 1)
    canvas.paint(shape, CORTEX * 0.8 * (1 - marrow) + person.bone_hu * 0.8 * marrow, box=box)


def draw_spine(canvas: Canvas, person: Person, label: int, rng: np.random.Generator) -> None:
    """Draw vertebrae, discs and arches; the label does not include the spinal canal."""
    box = canvas.box((-75, -125, -260), (75, 15, 260))
    z = canvas.z[box]
    x, y = canvas.x[box] - person.spine_x(z), canvas.y[box] - person.spine_y(z)
    offset, pitch = _levels(z)
    lumbar = np.clip((5 - z) / 60, 0, 1)
    disc_half = 3.0 + 2.2 * lumbar
    from_end = np.abs(offset) - (pitch / 2 - disc_half)  # > 0 in the disc
    waist = 2.2 * np.clip(-from_end / 9, 0, 1)
    across = x / (18.5 + 5.5 * lumbar - waist)
    along = (y + 0.25 * np.abs(x) * 0.4) / (14.5 + 3 * lumbar - 0.7 * waist)
    radius = (np.abs(across) ** 2.5 + np.abs(along) ** 2.5) ** np.float32(0.4)
    body = (radius - 1) * (15 + 4 * lumbar)
    disc = np.maximum(body - 1, -from_end - 0.5)
    body = smooth_max(body, from_end, 3)
    canal = np.sqrt(x**2 + ((y + 24 + 4 * lumbar) * 1.15) ** 2) - 9.0
    arch = _arch(x, y, offset, canal, lumbar)
    inside = np.clip(-np.minimum(body, arch * 1.2) / 2.6, 0, 1)
    spongy = person.bone_hu + 22 * canvas.field(rng, 14, box)
    canvas.paint(disc, 88.0, label, box)
    bone = CORTEX * 0.85 * (1 - inside) + spongy * inside
    canvas.paint(smooth_min(body, arch, 2.5), bone, label, box)
    canvas.paint(canal, 8.0, 0, box)
    canvas.paint(canal + 3.2, 32.0, 0, box)


def _levels(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Height above the centre of the nearest vertebra, and distance between vertebrae, both in mm."""
    start = RIB_12_MM - 4
    pitch = np.where(z < start - RIB_PITCH_MM / 2, LUMBAR_PITCH_MM, RIB_PITCH_MM).astype(np.float32)
    first = np.where(z < start - RIB_PITCH_MM / 2, start - (RIB_PITCH_MM + LUMBAR_PITCH_MM) / 2, start)
    level = np.round((z - first) / pitch)
    return z - first - level * pitch, pitch


def _arch(
    x: np.ndarray, y: np.ndarray, offset: np.ndarray, canal: np.ndarray, lumbar: np.ndarray
) -> np.ndarray:
    """Signed distance of pedicles, laminae, transverse and spinous processes of a vertebra."""
    behind = y + 24 + 4 * lumbar
    ring = np.maximum(np.abs(canal - 2.6) - 2.8, np.abs(offset - 1) - 9)
    ring = np.maximum(ring, y + 10)
    out = np.abs(x)
    wing = np.sqrt((behind + 4 + 0.28 * (out - 12)) ** 2 + ((offset - 3) * 0.8) ** 2) - 4.4
    wing = np.maximum(wing, out - (36 - 2 * lumbar))
    wing = np.maximum(wing, 9 - out)
    facet = np.sqrt((out - 15) ** 2 + (behind + 9) ** 2) - 5.8 + np.abs(offset) * 0.06
    tail = smooth_max(out - 3.2 - 0.5 * lumbar, np.abs(behind + 20) - 11, 2)
    tail = np.maximum(tail, np.abs(offset + 7 - 0.35 * (behind + 20)) - 8.5)
    return smooth_min(smooth_min(ring, wing, 3), np.minimum(facet, tail), 3)


def draw_pelvis(canvas: Canvas, person: Person) -> None:
    """Draw the iliac crests, if they lie in the scan."""
    for side in (-1, 1):
        rim: list[Point] = [
            (side * 46, -66, -146),
            (side * 70, -54, -124),
            (side * 92, -30, -116),
            (side * 106, -4, -120),
            (side * 108, 18, -136),
        ]
        box = canvas.box((min(0, side * 135), -100, -260), (max(0, side * 135), 60, -110))
        if canvas.x[box].size == 0:
            continue
        flat = np.full(canvas.x[box].shape, 1e3, np.float32)
        flared = canvas.x[box] - side * 0.45 * (canvas.z[box] + 122)
        for start, end in pairwise(rim):
            along = np.array(end) - np.array(start)
            x, y = flared - start[0], canvas.y[box] - start[1]
            fraction = np.clip((x * along[0] + y * along[1]) / (along[0] ** 2 + along[1] ** 2), 0, 1)
            gap = (
                np.sqrt((x - fraction * along[0]) ** 2 + (y - fraction * along[1]) ** 2)
                - 3.6
                - 2.2 * np.clip((canvas.z[box] + 150) / 25, 0, 1)
            )
            top = canvas.z[box] - (start[2] + fraction * along[2])
            np.minimum(flat, smooth_max(gap, top, 4), out=flat)
        marrow = np.clip(-flat / 3, 0, 1)
        canvas.paint(flat - 9, MUSCLE, box=box)
        canvas.paint(flat, CORTEX * (1 - marrow) + person.bone_hu * marrow, box=box)


def draw_table(canvas: Canvas, depth: np.ndarray) -> None:
    """Draw a curved table top under the body: a thin dense shell around foam, with a mattress on it.

    Args:
        depth: Distance from the skin in mm, positive inside the body (Z, Y, X).
    """
    y_mm, x_mm = canvas.axes_mm[1:]
    middle = np.abs(x_mm) < 60
    body_rows = np.flatnonzero((depth[:, :, middle] > 0).any(axis=(0, 2)))
    lowest = y_mm[body_rows[0]] if body_rows.size else y_mm[0]
    arc = (x_mm**2) / 520
    top = (y_mm[:, None] - (lowest - 1 + arc[None])).astype(np.float32)  # > 0 above the mattress
    outside = np.clip(0.5 - depth / canvas.edge_mm, 0, 1)
    inside_width = np.clip((205 - np.abs(x_mm)) / 4, 0, 1)[None].astype(np.float32)
    layers = ((0.0, 9.0, -930.0), (9.0, 12.0, -40.0), (12.0, 30.0, -955.0), (30.0, 33.0, -80.0))
    for upper, lower, hu in layers:
        layer = np.clip(0.5 - np.maximum(top + upper, -top - lower) / canvas.edge_mm, 0, 1) * inside_width
        coverage = outside * layer[None]
        canvas.hu[...] += coverage * (hu - canvas.hu)
