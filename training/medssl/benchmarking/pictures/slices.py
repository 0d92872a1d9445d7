"""Draws slices of scans: orientation, intensity window, true proportions, outlines."""

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
    """Intensities shown as black and as white: the soft-tissue window for CT, percentiles 1 and 99.5 for MR.

    Args:
        image: scan (Z, Y, X), in HU or MR intensities, or the output of `medssl.core.io.intensity.normalise`.
        modality: "ct" or "mr".
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
    """Whether a CT was normalised by `intensity.normalise`: HU exceed ±20, normalised values never do.

    Args:
        image: CT scan (Z, Y, X).
    """
    return bool(np.abs(image[:: max(1, len(image) // 8)]).max() < 20)


def small_print(modality: str) -> str:
    """Note on orientation and intensity window."""
    low, high = CT_WINDOW_HU
    window = f" CT window {low:.0f} to {high:.0f} HU.".replace("-", "−") if modality == "ct" else ""
    return SMALL_PRINT + window


@dataclass(frozen=True)
class View:
    """A slice of a scan and its visible region.

    Positions are (column, row) in mm from the upper left corner of the whole slice.

    Attributes:
        axis: AXIAL or CORONAL.
        index: slice index along `axis`.
        shape_zyx: shape of the scan.
        spacing_mm: voxel spacing (z, y, x).
        left, right, top, bottom: visible region.
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
        """Canonical axis of the picture's rows."""
        return 1 if self.axis == AXIAL else 0

    @property
    def size_mm(self) -> tuple[float, float]:
        """Width and height of the visible region."""
        return self.right - self.left, self.bottom - self.top

    def cut(self, volume: np.ndarray, step_vox: Sequence[int] = (1, 1, 1)) -> np.ndarray:
        """Extract the slice in the orientation of the picture: top row first, the patient's right first.

        Args:
            volume: (Z, Y, X) on the grid of the scan, or on a coarser one.
            step_vox: size of a cell of `volume` in voxels (z, y, x).
        """
        cell = min(self.index // step_vox[self.axis], volume.shape[self.axis] - 1)
        return np.take(volume, cell, axis=self.axis)[::-1, ::-1]

    def extent(self, plane: np.ndarray, step_vox: Sequence[int] = (1, 1, 1)) -> Extent:
        """Extent of a cut in mm for matplotlib's imshow.

        Cells that exceed the scan do so at high indices, which are left and at the top of the picture.

        Args:
            plane: result of `cut` (rows, columns).
            step_vox: size of a cell in voxels (z, y, x).
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

    def position(self, voxel_zyx: Sequence[int]) -> tuple[float, float]:
        """Position (column, row) of the centre of a voxel in mm."""
        column = (self.shape_zyx[2] - voxel_zyx[2] - 0.5) * self.spacing_mm[2]
        row = (self.shape_zyx[self.rows] - voxel_zyx[self.rows] - 0.5) * self.spacing_mm[self.rows]
        return column, row


def view(image: np.ndarray, spacing_mm: Spacing, modality: str, axis: int, index: int) -> View:
    """View of a slice, cropped to the patient without table and air.

    Args:
        image: scan (Z, Y, X).
        spacing_mm: voxel spacing (z, y, x).
        modality: "ct" or "mr".
        axis: AXIAL or CORONAL.
        index: slice index along `axis`.
    """
    low, high = greys(image, modality)
    body = np.asarray(image) > low + 0.1 * (high - low)
    rows = 1 if axis == AXIAL else 0
    ranges = []
    for direction in (2, rows):
        others = tuple(other for other in range(3) if other != direction)
        fraction = body.mean(axis=others)
        filled = np.flatnonzero(fraction > 0.12 * max(fraction.max(), 1e-9))
        first, last = (filled[0], filled[-1]) if filled.size else (0, len(fraction) - 1)
        size, count = spacing_mm[direction], len(fraction)
        margin = 8.0
        start, stop = (count - 1 - last) * size - margin, (count - first) * size + margin
        ranges.append((max(start, 0.0), min(stop, count * size)))
    (left, right), (top, bottom) = ranges
    z, y, x = image.shape
    return View(axis, index, (z, y, x), spacing_mm, left, right, top, bottom)


def show_scan(plot: Axes, image: np.ndarray, view: View, modality: str) -> None:
    """Draw the slice in grey and in true proportions, with letters for the orientation.

    Args:
        plot: axes to draw on.
        image: scan (Z, Y, X).
        view: slice to draw.
        modality: "ct" or "mr".
    """
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
    """Limit the axes to the visible region, with orientation letters at the four edges."""
    plot.set_xlim(view.left, view.right)
    plot.set_ylim(view.bottom, view.top)
    positions = (
        (0.02, 0.5, "left", "center"),
        (0.98, 0.5, "right", "center"),
        (0.5, 0.985, "center", "top"),
        (0.5, 0.015, "center", "bottom"),
    )
    for letter, (x, y, across, along) in zip(EDGES[view.axis], positions, strict=True):
        note(plot, x, y, letter, across, along, 5.5, palette.MUTED)


def note(plot: Axes, x: float, y: float, text: str, across: str, along: str, size: float, color: str) -> None:
    """Write small text on a scan with a dark outline; x and y are fractions of the axes."""
    plot.text(
        x, y, text, size=size, color=color, ha=across, va=along, transform=plot.transAxes,
        path_effects=[withStroke(linewidth=1.6, foreground=palette.PANEL)],
    )  # fmt: skip


def scale_bar(plot: Axes, view: View) -> None:
    """Draw a scale bar at the lower right, e.g. 5 cm for a trunk or 1 cm for a small organ."""
    width, height = view.size_mm
    length = max((size for size in (2, 5, 10, 20, 50) if size < 0.3 * width), default=1)
    right, row = view.right - 0.04 * width, view.bottom - 0.035 * height
    plot.plot([right - length, right], [row, row], color=palette.PANEL, lw=2.4, solid_capstyle="projecting")
    plot.plot([right - length, right], [row, row], color=palette.INK, lw=1.3, solid_capstyle="butt")
    label = f"{length // 10} cm" if length >= 10 else f"{length} mm"
    across, up = (right - length / 2 - view.left) / width, (view.bottom - row) / height + 0.012
    note(plot, across, up, label, "center", "bottom", 5.5, palette.INK)


def fill(plot: Axes, labels: np.ndarray, view: View, colors: dict[int, str], strength: float) -> None:
    """Fill the classes with translucent colours.

    Args:
        plot: axes to draw on.
        labels: labels, integer (Z, Y, X).
        view: slice to draw.
        colors: {class id: "#rrggbb"}.
        strength: opacity.
    """
    plane = view.cut(labels)
    cover = np.zeros((*plane.shape, 4))
    for class_id, color in colors.items():
        cover[plane == class_id] = (*to_rgb(color), strength)
    plot.imshow(cover, extent=view.extent(plane), interpolation="nearest", aspect="equal")


def outline(
    plot: Axes, labels: np.ndarray, view: View, colors: dict[int, str], width: float, style: str = "solid"
) -> None:
    """Draw the borders of the classes, smoothed by half a voxel.

    Args:
        plot: axes to draw on.
        labels: labels, integer (Z, Y, X).
        view: slice to draw.
        colors: {class id: "#rrggbb"}.
        width: line width.
        style: line style.
    """
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
