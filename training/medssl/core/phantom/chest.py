"""Diaphragm, lungs, heart and great vessels."""

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
    tube,
)
from medssl.core.phantom.person import Person
from medssl.core.phantom.trunk import AIR, FAT, MUSCLE

# Centre and radii in mm along the axes of the heart; the long axis points from the apex to the base.
CHAMBERS = (
    ((-20, -9, 5), (31, 16, 17)),  # left ventricle, thick wall
    ((-8, 24, -10), (34, 13, 20)),  # right ventricle
    ((30, 19, 0), (20, 19, 22)),  # right atrium
    ((28, -18, 12), (20, 19, 19)),  # left atrium
)


def diaphragm_height(canvas: Canvas, person: Person, rng: np.random.Generator) -> np.ndarray:
    """Height in mm of the diaphragm above or below each voxel, (Z, Y, X): two domes, the right one higher."""
    x, y = canvas.x, canvas.y
    domes = []
    for middle, apex in ((66.0, 56.0), (-66.0, 45.0)):
        ahead = np.where(y > 8, 0.62, 1.0)
        fall = ((x - middle) / 88) ** 2 + ahead * ((y - 8) / 78) ** 2
        domes.append(apex + person.breath_mm - 62 * fall)
    blend = 1 / (1 + np.exp(-x / 14))
    height = blend * domes[0] + (1 - blend) * domes[1]
    saddle = (34 + person.breath_mm) * np.exp(-((x / 34) ** 2)) * (y > -30)
    height = np.maximum(height, saddle + np.where(saddle > 0, 0.0, -500.0) * (saddle < 1))
    return height + 2.5 * canvas.field(rng, 60)


def draw_lungs(
    canvas: Canvas,
    person: Person,
    inner: np.ndarray,
    diaphragm: np.ndarray,
    label: int,
    rng: np.random.Generator,
) -> None:
    """Draw both lungs with vessels and bronchi; the mediastinum remains fat.

    Args:
        inner: Depth below the inner wall of the trunk in mm, positive inside (Z, Y, X).
        diaphragm: Height of the diaphragm in mm above or below each voxel (Z, Y, X).
        label: Class id of the lungs.
    """
    x, y, z = canvas.x, canvas.y, canvas.z
    sheet = np.abs(z - diaphragm) / 1.9 - 1.6
    canvas.paint(np.where(canvas.labels > 0, 9, np.maximum(sheet, -inner)), MUSCLE - 6)

    front = np.clip((y - 28) / 40, 0, 1)
    hilum = np.exp(-(((y + 2) / 24) ** 2)) * np.exp(-(((z - 85) / 32) ** 2))
    between = 27 - 15 * front + 11 * hilum + 2.5 * canvas.field(rng, 45)
    middle = person.spine_x(z) * 0.7
    side = between - np.abs(x - middle)
    lungs = smooth_max(3.0 - inner, (diaphragm + 3.0 - z) / 1.9, 5)
    lungs = smooth_max(lungs, side, 9)
    dependent = np.clip((-y + 20) / 110, -0.6, 1)
    air = -868 + 62 * dependent + 12 * canvas.field(rng, 40)
    canvas.paint(lungs, air, label)
    _fissures(canvas, lungs, rng)
    _lung_trees(canvas, person, lungs, rng)


def _fissures(canvas: Canvas, lungs: np.ndarray, rng: np.random.Generator) -> None:
    """Draw the oblique fissures: thin sheets from posterior superior to anterior inferior."""
    sheet = canvas.z - 75 + 0.85 * canvas.y + 4 * canvas.field(rng, 60)
    canvas.paint(np.maximum(np.abs(sheet) * 0.75 + 1.1, lungs + 2), -700.0)


def _lung_trees(canvas: Canvas, person: Person, lungs: np.ndarray, rng: np.random.Generator) -> None:
    """Draw arteries with adjacent bronchi, and veins, from each hilum into the lung."""
    blood = person.hu(42, 128)
    points = points_within(canvas, lungs, 4, 9000, rng)
    for side in (1, -1):
        targets = points[points[:, 0] * side > 0]
        arteries = grow_tree((side * 27, 0, 94), targets[:170], 0.85, 8.0)
        veins = grow_tree((side * 27, 8, 80), targets[170:310], 0.82, 7.0)
        airways = [(ends + np.array([side * 2, -6, 3]), radii) for ends, radii in arteries if radii[0] > 2.2]
        paint_tree(canvas, airways, -420.0, lungs, wider_mm=0.8)
        paint_tree(canvas, airways, AIR + 40, lungs, wider_mm=-0.9)
        for tree in (arteries, veins):
            paint_tree(canvas, tree, blood, lungs + 1.5, wider_mm=-0.15)


def draw_heart(canvas: Canvas, person: Person, diaphragm: np.ndarray, rng: np.random.Generator) -> None:
    """Draw the heart with four chambers in pericardial fat, on the diaphragm, its apex to the left and front.

    Args:
        diaphragm: Height of the diaphragm in mm above or below each voxel (Z, Y, X).
    """
    middle = np.array([-21.0, 25.0, 84.0 + 0.6 * person.breath_mm])
    own_axes = (rotation_about("z", -38 + rng.normal(0, 4)) @ rotation_about("y", 32 + rng.normal(0, 3))).T
    size = float(rng.uniform(0.98, 1.14))

    def chamber_shape(offset: Point, radii: Point, roughness: float) -> tuple[Box, np.ndarray]:
        center = middle + own_axes.T @ np.array(offset) * size
        box, distance = ellipsoid(canvas, center, size * np.array(radii), own_axes)
        return box, distance + roughness * bumps[box]

    bumps = canvas.field(rng, 30)
    outline = (60, 44, 43)
    box, heart = chamber_shape((0, 0, 0), outline, 1.8)
    floor = (diaphragm[box] + 3 - canvas.z[box]) / 1.2
    sack = smooth_max(heart - 3.5 - 2.5 * person.visceral_fat, floor - 2, 6)
    canvas.paint(sack - 1.6, 20.0, 0, box)
    canvas.paint(sack, FAT + 12, 0, box)
    heart = smooth_max(heart, floor, 6)
    wall, blood = person.hu(46, 108), person.hu(40, 152)
    canvas.paint(heart, wall, 0, box)
    for offset, radii in CHAMBERS:
        inner_box, chamber = chamber_shape(offset, radii, 1.4)
        within = ellipsoid_at(canvas, inner_box, middle, size * np.array(outline), own_axes)
        canvas.paint(np.maximum(chamber, within + 2.5), blood + rng.normal(0, 4), box=inner_box)
    for angle in (0.35, -0.5):
        groove = own_axes.T @ np.array([10.0, 44 * np.cos(angle), 44 * np.sin(angle)]) * size + middle
        box, fat = ellipsoid(canvas, groove, (9, 7, 16))
        canvas.paint(fat, FAT + 25, box=box)


def draw_great_vessels(canvas: Canvas, person: Person, rng: np.random.Generator) -> None:
    """Draw aorta, vena cava, pulmonary trunk, airways and oesophagus."""
    arterial, venous = person.hu(41, 150), person.hu(40, 138)
    left = float(rng.normal(-21, 2))
    ahead = [(height, float(person.spine_y(height)) + 23) for height in (230, 150, 80, 30, -10, -60, -118)]
    across = (left, left, left + 1, left + 6, left + 11, left + 15, left + 19)
    aorta: list[Point] = [(x, y + 2, z) for x, (z, y) in zip(across, ahead, strict=True)]
    aorta_radii = (12.5, 12, 11.5, 11, 10, 9, 8.5)
    _vessel(canvas, aorta, aorta_radii, arterial)
    for side in (-1, 1):
        x, y, z = aorta[-1]
        _vessel(canvas, [(x, y, z), (x + side * 26, y - 8, -170)], (6.5, 6), arterial)
        _vessel(canvas, [(20, y - 4, -124), (20 + side * 24, y - 14, -172)], (8.5, 7), venous)
    back = [float(person.spine_y(height)) + 24 for height in (20, -30, -80, -124)]
    cava: list[Point] = [(18, 8, 66), (22, 0, 40), (24, back[0] + 2, 15)]
    cava += [(23, back[1], -30), (22, back[2], -80), (20, back[3], -124)]
    _vessel(canvas, cava, (12, 12.5, 11.5, 10.5, 10, 9.5), venous)
    _vessel(canvas, [(24, 20, 110), (26, 18, 230)], (10, 9), person.hu(40, 142))
    _vessel(canvas, [(-4, 26, 108), (2, 34, 150), (4, 34, 230)], (15, 15, 14), arterial)  # ascending aorta
    _vessel(canvas, [(-14, 36, 106), (-20, 24, 128), (-22, 4, 122)], (13, 12.5, 9), venous)
    _vessel(canvas, [(-18, 12, 124), (30, 8, 108)], (10, 8), venous)
    for side in (1, -1):
        for thickness, hu in ((1.5, 40.0), (0.0, AIR + 10)):
            airway: list[Point] = [(4, 2, 230), (4, 0, 132), (4 + side * 28, -4, 100 - 4 * side)]
            box, distance = tube(canvas, airway, (9, 9, 5.5))
            canvas.paint(distance - thickness, hu, 0, box)
    oesophagus: list[Point] = [
        (-3, float(person.spine_y(z)) + 22 + d, z) for z, d in ((230, 0), (150, 1), (80, 5))
    ]
    _vessel(canvas, [*oesophagus, (-16, 2, 48), (-30, 0, 30)], (7, 7.5, 8, 8, 8), person.hu(38, 58))
    if person.calcified:
        _plaques(canvas, aorta, aorta_radii, rng)


def _vessel(canvas: Canvas, points: list[Point], radii: tuple[float, ...], hu: float) -> None:
    box, distance = tube(canvas, points, radii)
    if distance.size:
        canvas.paint(distance - 1.5, FAT + 25, 0, box)
        canvas.paint(distance, hu, 0, box)


def _plaques(canvas: Canvas, aorta: list[Point], radii: tuple[float, ...], rng: np.random.Generator) -> None:
    line = np.array(aorta)
    for _ in range(int(rng.integers(6, 16))):
        height, angle = rng.uniform(-118, 60), rng.uniform(0, 2 * np.pi)
        centre = [np.interp(height, line[::-1, 2], line[::-1, axis]) for axis in (0, 1)]
        radius = np.interp(height, line[::-1, 2], radii[::-1])
        plaque = (centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle), height)
        box, distance = ellipsoid(canvas, plaque, (2.4, 2.4, 4.5))
        canvas.paint(distance, 560.0, box=box)
