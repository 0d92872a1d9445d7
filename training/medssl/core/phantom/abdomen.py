"""Liver, spleen and kidneys."""

from __future__ import annotations

import numpy as np

from medssl.core.phantom.canvas import (
    Box,
    Canvas,
    Point,
    ellipsoid,
    ellipsoid_at,
    grow_tree,
    paint_tree,
    points_within,
    rotation_about,
    smooth_max,
    smooth_min,
    tube,
)
from medssl.core.phantom.person import Person
from medssl.core.phantom.trunk import FAT


def draw_liver(
    canvas: Canvas,
    person: Person,
    inner: np.ndarray,
    diaphragm: np.ndarray,
    label: int,
    rng: np.random.Generator,
) -> None:
    """Draw the liver under the right dome of the diaphragm, with vessels and gallbladder.

    Args:
        inner: Depth below the inner wall of the trunk in mm, positive inside (Z, Y, X).
        diaphragm: Height of the diaphragm in mm above or below each voxel (Z, Y, X).
        label: Class id of the liver.
    """
    box = canvas.box((-110, -110, -150), (160, 130, 100))
    x, y, z = canvas.x[box], canvas.y[box], canvas.z[box]
    tip, reach, slope = rng.normal(-60, 10), rng.normal(-70, 10), rng.uniform(0.42, 0.6)
    rough = canvas.field(rng, 55, box)
    fine = canvas.field(rng, 24, box)
    outside = 2.2 - inner[box]
    above = (z - diaphragm[box] + 0.5) / 1.8
    below = (tip - slope * (x - 52) - 0.32 * (y - 10) - z) / 1.2 + 5 * rough
    behind = -(0.69 * (x - 40) + 0.725 * (y + 49)) + 4 * fine
    left = (reach - x) + 0.25 * (y - 60)
    liver = smooth_max(smooth_max(outside, above, 7), smooth_max(below, behind, 22), 14)
    liver = smooth_max(liver, left, 26) + 1.6 * fine
    canvas.paint(liver, person.liver_hu + 2.5 * rough, label, box)
    _liver_vessels(canvas, person, box, liver, rng)
    cleft: list[Point] = [(4, 42, 8), (7, 62, -8), (9, 82, -16)]
    box_cleft, distance = tube(canvas, cleft, (3.5, 5, 4))
    canvas.paint(distance, FAT + 10, 0, box_cleft)
    bottom = float(tip - slope * (44 - 52) - 0.32 * 40)
    own_axes = rotation_about("x", rng.normal(25, 8))
    box_bile, bile = ellipsoid(canvas, (45, 52, bottom), (14, 26, 17), own_axes)
    bile = bile + 1.5 * canvas.field(rng, 30, box_bile)
    canvas.paint(bile - 1.8, person.hu(40, 75), 0, box_bile)
    canvas.paint(bile, 9.0, 0, box_bile)


def _liver_vessels(
    canvas: Canvas, person: Person, liver_box: Box, liver: np.ndarray, rng: np.random.Generator
) -> None:
    """Draw the portal tree from the hilum and the hepatic veins to the vena cava; the labels are kept."""
    shape = np.full(canvas.x.shape, 99.0, np.float32)
    shape[liver_box] = liver
    top = 40 + person.breath_mm
    portal = person.hu(38, 160) if person.enhancement else person.liver_hu - 16
    hepatic = person.hu(38, 152) if person.enhancement else person.liver_hu - 18
    points = points_within(canvas, shape, 7, 4000, rng)
    inside = shape + 4
    for root, targets, hu in (
        ((36.0, 8.0, -4.0), points[:70], portal),
        ((25.0, 0.0, top), points[70:120], hepatic),
    ):
        paint_tree(canvas, grow_tree(root, targets, 1.25, 7.5), hu, inside)


def draw_spleen(
    canvas: Canvas,
    person: Person,
    inner: np.ndarray,
    diaphragm: np.ndarray,
    label: int,
    rng: np.random.Generator,
) -> None:
    """Draw the spleen under the left dome of the diaphragm, with impressions of stomach and kidney.

    Args:
        inner: Depth below the inner wall of the trunk in mm, positive inside (Z, Y, X).
        diaphragm: Height of the diaphragm in mm above or below each voxel (Z, Y, X).
        label: Class id of the spleen.
    """
    size = float(rng.uniform(1.0, 1.35))
    middle: Point = (
        -92 + rng.normal(0, 3),
        -34 + rng.normal(0, 4),
        2 + rng.normal(0, 7) + 0.6 * person.breath_mm,
    )
    own_axes = (rotation_about("z", 18 + rng.normal(0, 8)) @ rotation_about("x", rng.normal(-18, 7))).T
    radii: Point = (40 * size, 51 * size, 60 * size)
    box, shape = ellipsoid(canvas, middle, radii, own_axes)
    hollow = ellipsoid_at(
        canvas, box, (middle[0] + 50, middle[1] + 24, middle[2] - 4), (40, 48, 75), own_axes
    )
    rough = canvas.field(rng, 34, box)
    shape = smooth_max(shape + 3.2 * rough, 3.0 - inner[box], 6)
    shape = smooth_max(shape, (canvas.z[box] - diaphragm[box] + 1) / 1.8, 6)
    shape = smooth_max(shape, -hollow + 2 * rough, 9)
    canvas.paint(shape, person.hu(49, 114) + 2 * rough, label, box)
    hilum = middle[0] + 26
    for step in (-12, 4, 16):
        branch: list[Point] = [(hilum + 14, -18, -8), (hilum - 6, middle[1] + 10, middle[2] + step)]
        vein_box, distance = tube(canvas, branch, (3.6, 2.4))
        canvas.paint(distance, person.hu(40, 150), 0, vein_box)


def draw_kidneys(canvas: Canvas, person: Person, label: int, rng: np.random.Generator) -> None:
    """Draw both kidneys in perirenal fat, with cortex, pyramids, sinus fat, pelvis and vessels."""
    for side in (1, -1):
        height = (-50 if side > 0 else -40) + rng.normal(0, 6) + 0.3 * person.breath_mm
        middle: Point = (side * (61 + rng.normal(0, 3)), -36 + rng.normal(0, 3), float(height))
        size = float(rng.uniform(0.92, 1.1))
        tilt = rotation_about("y", side * (13 + rng.normal(0, 3)))
        own_axes = (rotation_about("z", side * -32) @ tilt @ rotation_about("x", 10)).T
        _kidney(canvas, person, middle, size, side, own_axes, label, rng)
        inward = own_axes.T @ np.array([-side * 16.0, 0.0, 0.0])
        hilum = np.array(middle) + inward
        vein: list[Point] = [hilum, (side * 32, -8, height + 4), (20 if side > 0 else 0, -4, height + 7)]
        for points, radii, hu in (
            (vein, (4.2, 4.8, 5.2), person.hu(40, 145)),
            ([hilum, (side * 26, -20, height + 2), (-6, -12, height + 6)], (2.8, 3, 3.2), person.hu(40, 150)),
        ):
            box, distance = tube(canvas, points, radii)
            canvas.paint(np.where(canvas.labels[box] == label, 9, distance), hu, box=box)


def _kidney(
    canvas: Canvas,
    person: Person,
    middle: Point,
    size: float,
    side: int,
    own_axes: np.ndarray,
    label: int,
    rng: np.random.Generator,
) -> None:
    radii: Point = (27 * size, 23.5 * size, 55 * size)
    capsule: Point = (radii[0] + 12, radii[1] + 12, radii[2] + 14)
    box, outer = ellipsoid(canvas, middle, capsule, own_axes)
    rough = canvas.field(rng, 24, box)
    offset = own_axes.T @ np.array([-side * 27.0 * size, 0.0, 0.0])
    notch_middle = np.array(middle) + offset
    notch = ellipsoid_at(canvas, box, notch_middle, (15 * size, 13 * size, 17 * size), own_axes)
    sinus_middle = np.array(middle) + 0.42 * offset
    sinus = ellipsoid_at(canvas, box, sinus_middle, (11.5 * size, 8 * size, 24 * size), own_axes)
    shape = ellipsoid_at(canvas, box, middle, radii, own_axes) + 1.5 * rough
    fat_rim = shape - 2.5 - 5 * person.visceral_fat
    bone_or_muscle = (canvas.hu[box] > 20) & (canvas.labels[box] == 0)
    canvas.paint(np.where(bone_or_muscle, 9, np.maximum(fat_rim, outer)), FAT, 0, box)
    shape = smooth_max(shape, -notch, 6)
    sinus = sinus + 2.2 * canvas.field(rng, 16, box)
    cortex, medulla = person.hu(33, 172), person.hu(30, 132)
    columns = np.abs(canvas.field(rng, 22, box))
    depth_cortex = np.clip((-shape - 7.0) / 3, 0, 1) * np.clip((columns - 0.18) / 0.15, 0, 1)
    canvas.paint(shape, cortex + depth_cortex * (medulla - cortex), label, box)
    hollow = smooth_min(sinus, np.maximum(notch, shape - 2), 3)
    canvas.paint(np.maximum(hollow, shape), FAT + 20, 0, box)
    canvas.paint(sinus + 5.5, 14.0, 0, box)
