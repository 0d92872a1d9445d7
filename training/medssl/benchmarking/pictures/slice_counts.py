"""Figure of Dice over the number of annotated slices, with all seeds of each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from medssl.benchmarking.pictures import page
from medssl.benchmarking.pictures.charts import name_ends, plain_axes
from medssl.core import palette

WIDTH_IN, HEIGHT_IN = 5.0, 4.2
NAMES_IN = 1.75
OFFSET = 0.03
"""Horizontal offset between methods, so that their dots do not overlap; 1 is a doubling of the slices."""


@dataclass(frozen=True)
class SliceCounts:
    """Scores of a method.

    Attributes:
        title: name of the method.
        values: {number of annotated slices: Dice of each seed}.
        peer: another program, drawn in grey and dashed.
        quiet: drawn faintly and without a name.
    """

    title: str
    values: Mapping[int, Sequence[float]]
    peer: bool = False
    quiet: bool = False


def slice_counts(path: Path, methods: Sequence[SliceCounts], title: str, words: str = "") -> Path:
    """Draw the mean over seeds as a line, the standard deviation as a band, and each seed as a dot.

    Args:
        path: output file, .png, .pdf or .svg.
        methods: scores; the first method is drawn in grey.
        title: title of the figure.
        words: small text under the title.

    Raises:
        UserError: "unsupported", "not-writable" or "disk-full".
    """
    width = 2 * page.MARGIN_IN + WIDTH_IN + NAMES_IN
    height = page.heading_height(title) + HEIGHT_IN + 1.1
    figure = page.page(width, height)
    top = page.heading(figure, title)
    page.write(figure, page.MARGIN_IN, top - 0.05, words, size=7.5, color=palette.MUTED)
    plot = page.axes(figure, page.MARGIN_IN + 0.3, top + 0.3, WIDTH_IN - 0.3, HEIGHT_IN)
    counts = sorted({count for method in methods for count in method.values})
    _scale(plot, counts, methods)
    for method in methods:
        if method.quiet:
            _means(plot, method, palette.FAINT)
    ends = []
    prominent = [method for method in methods if not method.quiet]
    colors = iter(palette.RUN_COLORS * len(prominent))
    for number, method in enumerate(prominent):
        color = palette.MUTED if method.peer else next(colors)
        offset = (OFFSET if len(counts) > 1 else 2 * OFFSET) * (number - (len(prominent) - 1) / 2)
        ends.append((_seeds(plot, method, color, offset), method.title, color))
    name_ends(plot, ends)
    return page.save(path, figure)


def _scale(plot: Axes, counts: Sequence[int], methods: Sequence[SliceCounts]) -> None:
    """Scale the axes: logarithmic in the number of slices; Dice from below the lowest dot to at most 1."""
    plain_axes(plot, "annotated slices, on two scans")
    positions = np.log2(counts)
    plot.set_xlim(positions[0] - 0.35, positions[-1] + 0.35)
    plot.set_xticks(positions, [str(count) for count in counts])
    plot.xaxis.set_minor_locator(NullLocator())
    lowest = min(value for method in methods for values in method.values.values() for value in values)
    highest = max(value for method in methods for values in method.values.values() for value in values)
    span = max(highest - lowest, 0.1)
    plot.set_ylim(max(0.0, lowest - 0.08 * span), min(1.0, highest + 0.1 * span))
    plot.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def _means(plot: Axes, method: SliceCounts, color: str, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Draw the line through the means; returns its positions and values."""
    counts = sorted(method.values)
    positions = np.log2(counts) + offset
    means = np.array([np.mean(method.values[count]) for count in counts])
    style = (0, (4, 2)) if method.peer else "solid"
    width = 1.0 if method.quiet or method.peer else 1.8
    marker = "o" if method.quiet else ""
    plot.plot(positions, means, color=color, lw=width, ls=style, marker=marker, markersize=2.2, zorder=3)
    return positions, means


def _seeds(plot: Axes, method: SliceCounts, color: str, offset: float) -> float:
    """Draw one method with its seeds and their standard deviation; returns the last mean."""
    positions, means = _means(plot, method, color, offset)
    values = [method.values[count] for count in sorted(method.values)]
    spread = np.array([np.std(seeds, ddof=1) if len(seeds) > 1 else 0.0 for seeds in values])
    if len(positions) == 1:
        plot.vlines(positions, means - spread, means + spread, color=color, lw=1.4, alpha=0.6)
        plot.plot(positions, means, color=color, marker="_", markersize=11, mew=1.8)
    elif not method.peer:
        plot.fill_between(positions, means - spread, means + spread, color=color, alpha=0.1, lw=0)
    for position, seeds in zip(positions, values, strict=True):
        plot.scatter(
            [position] * len(seeds),
            seeds,
            s=9,
            color=color,
            edgecolors=palette.PAGE,
            linewidths=0.5,
            zorder=4,
        )
    return float(means[-1])
