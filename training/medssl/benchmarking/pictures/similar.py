"""Figure of the feature similarity to one voxel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from medssl.benchmarking.pictures import page, slices
from medssl.benchmarking.pictures.slices import AXIAL, CORONAL, NAMES, Spacing, View
from medssl.core import palette

WIDTH_IN = 11.0
GAP_IN = 0.07
HEADS_IN = 0.5
FOOT_IN = 0.62
COLORS = "inferno"  # perceptually uniform: equal steps of similarity look equal


@dataclass(frozen=True)
class Similar:
    """A scan and the similarity of its features to those of a query voxel.

    Attributes:
        image: (Z, Y, X), HU or MR intensities, or the output of `medssl.core.io.intensity.normalise`.
        spacing_mm: voxel spacing (z, y, x).
        values: cosine similarities, float (Z', Y', X'), on a grid with cells of `step_vox` voxels.
        voxel_zyx: voxel to mark and to cut at: the query voxel or the best match.
        step_vox: size of a cell of `values` in voxels (z, y, x).
    """

    image: np.ndarray
    spacing_mm: Spacing
    values: np.ndarray
    voxel_zyx: Sequence[int]
    title: str = ""
    step_vox: Sequence[int] = (1, 1, 1)
    modality: str = "ct"


def similarity(path: Path, scans: Similar | Sequence[Similar], title: str = "") -> Path:
    """Draw scans with the marked voxel and the similarity map, one scan per line.

    Each line shows an axial slice and its map, then a coronal slice and its map. All maps share one scale.

    Args:
        path: output file, .png, .pdf or .svg.
        scans: scans to draw; the query voxel is in the first.
        title: title of the figure.

    Raises:
        UserError: "unsupported", "not-writable" or "disk-full".
    """
    scans = [scans] if isinstance(scans, Similar) else list(scans)
    lines = [[_view(scan, axis) for axis in (AXIAL, CORONAL)] for scan in scans]
    available = WIDTH_IN - 2 * page.MARGIN_IN - 3 * GAP_IN
    heights = [available / (2 * sum(_proportion(view) for view in views)) for views in lines]
    height = (
        page.heading_height(title) + sum(HEADS_IN + line_height + GAP_IN for line_height in heights) + FOOT_IN
    )
    figure = page.page(WIDTH_IN, height)
    top = page.heading(figure, title)
    limits = _limits(scans)
    for scan, views, line_height in zip(scans, lines, heights, strict=True):
        _line(figure, scan, views, top, line_height, limits)
        top += HEADS_IN + line_height + GAP_IN
    _legend(figure, limits, height)
    page.write(
        figure,
        page.MARGIN_IN,
        height - 0.36,
        slices.small_print(scans[0].modality),
        size=6,
        color=palette.MUTED,
    )
    return page.save(path, figure)


def _view(scan: Similar, axis: int) -> View:
    return slices.view(scan.image, scan.spacing_mm, scan.modality, axis, int(scan.voxel_zyx[axis]))


def _proportion(view: View) -> float:
    return view.size_mm[0] / view.size_mm[1]


def _limits(scans: Sequence[Similar]) -> tuple[float, float]:
    """Common scale of all maps: from the fifth percentile, rounded down to tenths, to 1."""
    low = min(float(np.percentile(scan.values, 5)) for scan in scans)
    return float(np.clip(np.floor(low * 10) / 10, -1, 0.9)), 1.0


def _line(
    figure: Figure,
    scan: Similar,
    views: Sequence[View],
    top: float,
    height: float,
    limits: tuple[float, float],
) -> None:
    first, _, second = scan.title.partition("\n")
    page.write(figure, page.MARGIN_IN, top + 0.1, first, size=9, weight="bold")
    page.write(figure, page.MARGIN_IN, top + 0.28, second, size=7.5, color=palette.MUTED)
    left = page.MARGIN_IN
    for view in views:
        width = height * _proportion(view)
        plot = page.axes(figure, left, top + HEADS_IN, width, height)
        slices.show_scan(plot, scan.image, view, scan.modality)
        slices.note(plot, 0.02, 0.98, NAMES[view.axis], "left", "top", 6, palette.MUTED)
        slices.scale_bar(plot, view)
        mark(plot, view, scan.voxel_zyx)
        left += width + GAP_IN
        plot = page.axes(figure, left, top + HEADS_IN, width, height)
        plane = view.cut(scan.values, scan.step_vox)
        plot.imshow(
            plane,
            cmap=COLORS,
            vmin=limits[0],
            vmax=limits[1],
            extent=view.extent(plane, scan.step_vox),
            interpolation="bilinear",
            aspect="equal",
        )
        slices.frame(plot, view)
        mark(plot, view, scan.voxel_zyx)
        left += width + GAP_IN


def mark(plot: Axes, view: View, voxel_zyx: Sequence[int]) -> None:
    """Mark a voxel by a ring with four ticks, which leave the voxel visible."""
    column, row = view.position(voxel_zyx)
    reach = 0.028 * view.size_mm[0]
    around = [withStroke(linewidth=2.6, foreground=palette.PANEL)]
    angles = np.linspace(0, 2 * np.pi, 61)
    style = {"color": palette.ACCENT, "lw": 1.2, "path_effects": around, "zorder": 9}
    plot.plot(column + reach * np.cos(angles), row + reach * np.sin(angles), **style)  # type: ignore[arg-type]
    for across, along in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        ends = np.array([1.0, 1.9]) * reach
        plot.plot(column + across * ends, row + along * ends, **style)  # type: ignore[arg-type]


def _legend(figure: Figure, limits: tuple[float, float], height: float) -> None:
    bar_width = 1.9
    left = WIDTH_IN - page.MARGIN_IN - bar_width
    plot = page.axes(figure, left, height - FOOT_IN + 0.16, bar_width, 0.09)
    plot.imshow(np.linspace(0, 1, 256)[None], cmap=COLORS, aspect="auto", extent=(0, 1, 0, 1))
    for fraction, value in ((0, limits[0]), (1, limits[1])):
        position = left + fraction * bar_width
        label = f"{value:.1f}".replace("-", "−")
        page.write(
            figure,
            position,
            height - FOOT_IN + 0.29,
            label,
            6.5,
            palette.MUTED,
            align="right" if fraction else "left",
        )
    label = "cosine similarity to the marked voxel of the first scan"
    page.write(figure, left - 0.1, height - FOOT_IN + 0.15, label, 7, palette.INK, align="right")
