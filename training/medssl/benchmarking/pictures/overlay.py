"""Figure of reference labels next to predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from medssl.benchmarking.pictures import page, slices
from medssl.benchmarking.pictures.slices import AXIAL, CORONAL, NAMES, Spacing, View
from medssl.core import palette
from medssl.core.project.project import LabelClass

COLUMN_IN = 2.75
GAP_IN = 0.07
HEADS_IN = 0.5
FOOT_IN = 0.52


@dataclass(frozen=True)
class Segmented:
    """A scan with reference labels and predictions; all arrays have the shape (Z, Y, X).

    Attributes:
        image: HU or MR intensities, or the output of `medssl.core.io.intensity.normalise`.
        spacing_mm: voxel spacing (z, y, x).
        reference: reference labels.
        predictions: {title: labels}; a second line of a title is written small, e.g. a score.
        slices_zy: axial and coronal slice to show; None chooses those that show most classes.
    """

    image: np.ndarray
    spacing_mm: Spacing
    reference: np.ndarray
    predictions: Mapping[str, np.ndarray] = field(default_factory=dict)
    title: str = ""
    modality: str = "ct"
    slices_zy: tuple[int, int] | None = None


def overlay(
    path: Path,
    scans: Segmented | Sequence[Segmented],
    classes: Sequence[LabelClass],
    title: str = "",
    axes: Sequence[int] = (AXIAL, CORONAL),
) -> Path:
    """Draw scans with outlines of the reference, then each prediction with the reference in white.

    Args:
        path: output file, .png, .pdf or .svg.
        scans: scans to draw.
        classes: names and colours.
        title: title of the figure.
        axes: canonical axes of the slices to draw.

    Raises:
        UserError: "unsupported", "not-writable" or "disk-full".
    """
    scans = [scans] if isinstance(scans, Segmented) else list(scans)
    colors = {entry.id: entry.color for entry in classes}
    rows = [(scan, [_view(scan, axis, colors) for axis in axes]) for scan in scans]
    columns = 1 + max(len(scan.predictions) for scan in scans)
    heights = [
        [COLUMN_IN * view.size_mm[1] / view.size_mm[0] + GAP_IN for view in views] for _, views in rows
    ]
    width = 2 * page.MARGIN_IN + columns * (COLUMN_IN + GAP_IN) - GAP_IN
    height = page.heading_height(title) + sum(HEADS_IN + sum(row) for row in heights) + FOOT_IN
    figure = page.page(width, height)
    top = page.heading(figure, title)
    for (scan, views), row_heights in zip(rows, heights, strict=True):
        _heads(figure, scan, top)
        top += HEADS_IN
        for view, row_height in zip(views, row_heights, strict=True):
            _row(figure, scan, view, colors, top, row_height - GAP_IN)
            top += row_height
    _foot(figure, classes, scans[0].modality, width, height)
    return page.save(path, figure)


def _view(scan: Segmented, axis: int, colors: Mapping[int, str]) -> View:
    index = (
        scan.slices_zy[axis] if scan.slices_zy else representative_slice(scan.reference, axis, tuple(colors))
    )
    return slices.view(scan.image, scan.spacing_mm, scan.modality, axis, index)


def representative_slice(labels: np.ndarray, axis: int, class_ids: Sequence[int]) -> int:
    """The slice that shows most of the classes, with small and large classes weighted equally.

    Args:
        labels: labels, integer (Z, Y, X).
        axis: canonical axis across the slices.
        class_ids: classes to show.
    """
    others = tuple(other for other in range(3) if other != axis)
    score = np.zeros(labels.shape[axis])
    for class_id in class_ids:
        area = np.count_nonzero(labels == class_id, axis=others)
        score += np.sqrt(area / max(area.max(), 1))
    return int(score.argmax()) if score.any() else labels.shape[axis] // 2


def _heads(figure: Figure, scan: Segmented, top: float) -> None:
    titles = ["reference", *scan.predictions]
    for column, title in enumerate(titles):
        left = page.MARGIN_IN + column * (COLUMN_IN + GAP_IN)
        first, _, second = title.partition("\n")
        page.write(figure, left, top + 0.1, first, size=9, weight="bold")
        small = scan.title if column == 0 else second
        page.write(figure, left, top + 0.28, small, size=7.5, color=palette.MUTED)


def _row(
    figure: Figure, scan: Segmented, view: View, colors: dict[int, str], top: float, height: float
) -> None:
    for column, labels in enumerate([scan.reference, *scan.predictions.values()]):
        left = page.MARGIN_IN + column * (COLUMN_IN + GAP_IN)
        plot = page.axes(figure, left, top, COLUMN_IN, height)
        slices.show_scan(plot, scan.image, view, scan.modality)
        if column == 0:
            slices.note(plot, 0.02, 0.98, NAMES[view.axis], "left", "top", 6, palette.MUTED)
            slices.scale_bar(plot, view)
            slices.outline(plot, labels, view, colors, 1.2)
        else:
            slices.fill(plot, labels, view, colors, 0.42)
            slices.outline(plot, labels, view, colors, 0.7)
            white = dict.fromkeys(colors, palette.INK)
            slices.outline(plot, scan.reference, view, white, 0.55, "dotted")


def _foot(figure: Figure, classes: Sequence[LabelClass], modality: str, width: float, height: float) -> None:
    top = height - FOOT_IN + 0.12
    left = page.MARGIN_IN
    for entry in classes:
        page.write(figure, left, top, "●", size=9, color=entry.color)
        left = page.write(figure, left + 0.15, top + 0.015, entry.name, size=7.5) + 0.24
    line = "Dotted: the reference. " + slices.small_print(modality)
    page.write(figure, page.MARGIN_IN, top + 0.2, line, size=6, color=palette.MUTED)
