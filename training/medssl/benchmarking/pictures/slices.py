"""Slices of scans on a page: orientation, grey values, true proportions, outlines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patheffects import withStroke
from scipy.ndimage import gaussian_filter, zoom

from medssl.core import palette

AXIAL, CORONAL = 0, 1
NAMES = {AXIAL: "axial", CORONAL: "coronal"}
EDGES = {AXIAL: "RLAP", CORONAL: "RLSI"}  # left, right, top, bottom
CT_WINDOW_HU = (-160.0, 240.0)
SMALL_PRINT = "Radiological view: the patient's right is on the left of the picture."

Spacing = tuple[float, float, float]
Extent = tuple[float, float, float, float]


def greys(image: np.ndarray, modality: str) -> tuple[float, float]:
    """Values shown as black and as white.

    image: HU, or any MR units, or either as `medssl.core.io.intensity.normalise` made it. CT: the soft-tissue
    window; MR: the 1st and the 99.5th percentile.
    """
    if modality != "ct":
        sample = np.asarray(image, dtype=np.float32)
        low, high = np.percentile(sample, (1, 99.5))
        return float(low), float(max(high, low + 1e-6))
    if not is_normalised(image):
        return CT_WINDOW_HU
    low, high = np.arcsinh((np.array(CT_WINDOW_HU) - 40) / 100)
    return float(low), float(high)


def is_normalised(image: np.ndarray) -> bool:
    """Whether a CT is in units of `intensity.normalise`: HU go far beyond ±20, those never do."""
    return bool(np.abs(image[:: max(1, len(image) // 8)]).max() < 20)


def small_print(modality: str) -> str:
    """What a reader has to know about the display."""
    low, high = CT_WINDOW_HU
    window = f" CT window {low:.0f} to {high:.0f} HU.".replace("-", "−") if modality == "ct" else ""
    return SMALL_PRINT + window


@dataclass(frozen=True)
class View:
    """One slice of a scan and the part of it that is shown.

    axis: AXIAL or CORONAL; index: along that axis. Places in the picture are (column, row) in mm from the
    upper left corner of the whole slice; left, right, top, bottom: the part that is shown.
    """

    axis: int
    index: int
    shape_zyx: tuple[int, int, int]
    spacing_mm: Spacing
    left: float
    right: float
    top: float
    bottom: float

    @property
    def rows(self) -> int:
        """The canonical axis that runs down the picture."""
        return 1 if self.axis == AXIAL else 0

    @property
    def size_mm(self) -> tuple[float, float]:
        """Width and height of the part that is shown."""
        return self.right - self.left, self.bottom - self.top

    def cut(self, volume: np.ndarray, step_vox: Sequence[int] = (1, 1, 1)) -> np.ndarray:
        """The slice as it lies in the picture: top row first, the patient's right first.

        volume: (Z, Y, X) on the scan's grid or, with `step_vox` voxels a cell, on a coarser one.
        """
        cell = min(self.index // step_vox[self.axis], volume.shape[self.axis] - 1)
        return np.take(volume, cell, axis=self.axis)[::-1, ::-1]

    def extent(self, plane: np.ndarray, step_vox: Sequence[int] = (1, 1, 1)) -> Extent:
        """Where a cut lies in the picture, as matplotlib's imshow wants it.

        Cells that stick out of the scan do so at the high indices, which are left and at the top here.
        """
        sizes = [
            (count * self.spacing_mm[axis], cells * step_vox[axis] * self.spacing_mm[axis])
            for axis, count, cells in (
                (2, self.shape_zyx[2], plane.shape[1]),
                (self.rows, self.shape_zyx[self.rows], plane.shape[0]),
            )
        ]
        (width, cut_width), (height, cut_height) = sizes
        return (width - cut_width, width, height, height - cut_height)

    def place(self, voxel_zyx: Sequence[int]) -> tuple[float, float]:
        """Middle of a voxel in the picture."""
        column = (self.shape_zyx[2] - voxel_zyx[2] - 0.5) * self.spacing_mm[2]
        row = (self.shape_zyx[self.rows] - voxel_zyx[self.rows] - 0.5) * self.spacing_mm[self.rows]
        return column, row


def view(image: np.ndarray, spacing_mm: Spacing, modality: str, axis: int, index: int) -> View:
    """The view of a slice, cropped to the patient (the table and the air around do not count)."""
    low, high = greys(image, modality)
    body = np.asarray(image) > low + 0.1 * (high - low)
    rows = 1 if axis == AXIAL else 0
    ranges = []
    for direction in (2, rows):
        others = tuple(other for other in range(3) if other != direction)
        share = body.mean(axis=others)
        filled = np.flatnonzero(share > 0.12 * max(share.max(), 1e-9))
        first, last = (filled[0], filled[-1]) if filled.size else (0, len(share) - 1)
        size, count = spacing_mm[direction], len(share)
        margin = 8.0
        start, stop = (count - 1 - last) * size - margin, (count - first) * size + margin
        ranges.append((max(start, 0.0), min(stop, count * size)))
    (left, right), (top, bottom) = ranges
    z, y, x = image.shape
    return View(axis, index, (z, y, x), spacing_mm, left, right, top, bottom)


def show_scan(plot: Axes, image: np.ndarray, view: View, modality: str) -> None:
    """Draw the slice in grey, in true proportions, and say where the sides are."""
    low, high = greys(image, modality)
    plane = view.cut(image).astype(np.float32)
    if modality == "ct" and is_normalised(image):
        plane = 40 + 100 * np.sinh(np.clip(plane, -6, 6))
        low, high = CT_WINDOW_HU
    plot.imshow(
        plane,
        cmap="gray",
        vmin=low,
        vmax=high,
        extent=view.extent(plane),
        interpolation="bicubic",
        aspect="equal",
    )
    frame(plot, view)


def frame(plot: Axes, view: View) -> None:
    """Show the view's part only; letters at the four sides."""
    plot.set_xlim(view.left, view.right)
    plot.set_ylim(view.bottom, view.top)
    places = (
        (0.02, 0.5, "left", "center"),
        (0.98, 0.5, "right", "center"),
        (0.5, 0.985, "center", "top"),
        (0.5, 0.015, "center", "bottom"),
    )
    for letter, (x, y, across, along) in zip(EDGES[view.axis], places, strict=True):
        note(plot, x, y, letter, across, along, 5.5, palette.MUTED)


def note(
    plot: Axes, x: float, y: float, words: str, across: str, along: str, size: float, color: str
) -> None:
    """Small text on a scan, readable on any grey; x, y: fractions of the axes."""
    plot.text(
        x, y, words, size=size, color=color, ha=across, va=along, transform=plot.transAxes,
        path_effects=[withStroke(linewidth=1.6, foreground=palette.PANEL)],
    )  # fmt: skip


def scale_bar(plot: Axes, view: View) -> None:
    """A bar at the lower right, as long as is handy: 5 cm in a trunk, 1 cm in a small organ."""
    width, height = view.size_mm
    length = max((size for size in (2, 5, 10, 20, 50) if size < 0.3 * width), default=1)
    right, row = view.right - 0.04 * width, view.bottom - 0.035 * height
    plot.plot([right - length, right], [row, row], color=palette.PANEL, lw=2.4, solid_capstyle="projecting")
    plot.plot([right - length, right], [row, row], color=palette.INK, lw=1.3, solid_capstyle="butt")
    label = f"{length // 10} cm" if length >= 10 else f"{length} mm"
    across, up = (right - length / 2 - view.left) / width, (view.bottom - row) / height + 0.012
    note(plot, across, up, label, "center", "bottom", 5.5, palette.INK)


def fill(plot: Axes, labels: np.ndarray, view: View, colors: dict[int, str], strength: float) -> None:
    """Cover each class with its colour, voxel by voxel, letting the scan through."""
    plane = view.cut(labels)
    cover = np.zeros((*plane.shape, 4))
    for class_id, color in colors.items():
        cover[plane == class_id] = (*to_rgb(color), strength)
    plot.imshow(cover, extent=view.extent(plane), interpolation="nearest", aspect="equal")


def outline(
    plot: Axes, labels: np.ndarray, view: View, colors: dict[int, str], width: float, style: str = "solid"
) -> None:
    """Draw the border of each class, its voxel corners rounded off by half a voxel."""
    plane = view.cut(labels)
    left, _, _, top = view.extent(plane)
    width_mm, height_mm = view.spacing_mm[2], view.spacing_mm[view.rows]
    fine = 4
    for class_id, color in colors.items():
        rows, columns = np.nonzero(plane == class_id)
        if not rows.size:
            continue
        first, last = (rows.min(), columns.min()), (rows.max() + 1, columns.max() + 1)
        mask = np.pad(plane[first[0] : last[0], first[1] : last[1]] == class_id, 2).astype(np.float32)
        soft = gaussian_filter(zoom(mask, fine, order=0, grid_mode=True, mode="nearest"), 0.5 * fine)
        x = left + ((np.arange(soft.shape[1]) + 0.5) / fine + first[1] - 2) * width_mm
        y = top + ((np.arange(soft.shape[0]) + 0.5) / fine + first[0] - 2) * height_mm
        plot.contour(x, y, soft, [0.5], colors=[color], linewidths=[width], linestyles=[style])
