"""Dice over the amount of annotation, method by method, with every seed."""

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
APART = 0.03
"""Methods stand side by side, or their dots would hide each other: so far, of a doubling of the slices."""


@dataclass(frozen=True)
class SliceCounts:
    """A method: {annotated slices: Dice of each seed}.

    peer: another program, grey and dashed. quiet: drawn faintly, without a name.
    """

    title: str
    values: Mapping[int, Sequence[float]]
    peer: bool = False
    quiet: bool = False


def slice_counts(path: Path, methods: Sequence[SliceCounts], title: str, words: str = "") -> Path:
    """Draw the mean over seeds as a line, their standard deviation as a band, each seed as a dot.

    The first method is the grey one. `words` stand small under the title.
    Raises UserError ("unsupported", "not-writable", "disk-full").
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
    loud = [method for method in methods if not method.quiet]
    colors = iter(palette.RUN_COLORS * len(loud))
    for number, method in enumerate(loud):
        color = palette.MUTED if method.peer else next(colors)
        aside = (APART if len(counts) > 1 else 2 * APART) * (number - (len(loud) - 1) / 2)
        ends.append((_seeds(plot, method, color, aside), method.title, color))
    name_ends(plot, ends)
    return page.save(path, figure)


def _scale(plot: Axes, counts: Sequence[int], methods: Sequence[SliceCounts]) -> None:
    """Doublings of the slices are equally wide; Dice from below the lowest dot, never above 1."""
    plain_axes(plot, "painted slices, on two scans")
    places = np.log2(counts)
    plot.set_xlim(places[0] - 0.35, places[-1] + 0.35)
    plot.set_xticks(places, [str(count) for count in counts])
    plot.xaxis.set_minor_locator(NullLocator())
    lowest = min(value for method in methods for values in method.values.values() for value in values)
    highest = max(value for method in methods for values in method.values.values() for value in values)
    span = max(highest - lowest, 0.1)
    plot.set_ylim(max(0.0, lowest - 0.08 * span), min(1.0, highest + 0.1 * span))
    plot.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def _means(plot: Axes, method: SliceCounts, color: str, aside: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Draw the line through the means; returns its places and heights."""
    counts = sorted(method.values)
    places = np.log2(counts) + aside
    means = np.array([np.mean(method.values[count]) for count in counts])
    style = (0, (4, 2)) if method.peer else "solid"
    width = 1.0 if method.quiet or method.peer else 1.8
    marker = "o" if method.quiet else ""
    plot.plot(places, means, color=color, lw=width, ls=style, marker=marker, markersize=2.2, zorder=3)
    return places, means


def _seeds(plot: Axes, method: SliceCounts, color: str, aside: float) -> float:
    """Draw one method with the spread over its seeds and each of them; returns the height of its end."""
    places, means = _means(plot, method, color, aside)
    values = [method.values[count] for count in sorted(method.values)]
    spread = np.array([np.std(seeds, ddof=1) if len(seeds) > 1 else 0.0 for seeds in values])
    if len(places) == 1:
        plot.vlines(places, means - spread, means + spread, color=color, lw=1.4, alpha=0.6)
        plot.plot(places, means, color=color, marker="_", markersize=11, mew=1.8)
    elif not method.peer:
        plot.fill_between(places, means - spread, means + spread, color=color, alpha=0.1, lw=0)
    for place, seeds in zip(places, values, strict=True):
        plot.scatter(
            [place] * len(seeds), seeds, s=9, color=color, edgecolors=palette.PAGE, linewidths=0.5, zorder=4
        )
    return float(means[-1])
