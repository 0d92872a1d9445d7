"""Dice over seconds of fine-tuning: a panel for each data set, a line for each start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator
from medssl.benchmarking.pictures import page
from medssl.benchmarking.pictures.charts import plain_axes
from medssl.core import palette

PANEL_WIDTH_IN, PANEL_HEIGHT_IN, GAP_IN, MIN_WIDTH_IN = 2.15, 2.5, 0.5, 7.2
LETTER_WIDTH_IN = 0.068
"""Maximum width of a letter in the legend."""
ZERO_OFFSET = 1.6
"""Distance of 0 s from the first mark on the logarithmic axis, in doublings."""


@dataclass(frozen=True)
class Line:
    """The curve of one start; `values` is {seconds: Dice of each draw}."""

    name: str
    values: Mapping[float, Sequence[float]]
    peer: bool = False
    """Whether this is another program."""
    ceiling: bool = False

    @property
    def legend_symbol(self) -> str:
        """The line style as text."""
        return "···" if self.ceiling else "– –" if self.peer else "■"


@dataclass(frozen=True)
class Panel:
    """The curves of one data set."""

    dataset: str
    judge: str
    lines: Sequence[Line]


def curves(path: Path, panels: Sequence[Panel], title: str) -> Path:
    """Draw the mean over draws as lines and the standard deviation as bands, one panel per data set.

    Args:
        path: Picture to write; its extension selects the format.

    Returns:
        `path`.

    Raises:
        UserError: "unsupported", "not-writable", "disk-full".
    """
    styles = _styles(panels)
    width = max(2 * page.MARGIN_IN + len(panels) * (PANEL_WIDTH_IN + GAP_IN), MIN_WIDTH_IN)
    rows = _legend_rows(list(styles), width)
    top = page.heading_height(title) + 0.2 * (len(rows) + 1) + 0.16
    figure = page.page(width, top + 0.34 + PANEL_HEIGHT_IN + 0.72)
    page.heading(figure, title)
    caption = "line: mean over draws, band: standard deviation; dashed: another program, dotted: upper bound"
    _legend(figure, rows, styles, page.heading_height(title))
    page.write(figure, page.MARGIN_IN, top - 0.32, caption, size=7.5, color=palette.MUTED)
    for number, panel in enumerate(panels):
        left = page.MARGIN_IN + number * (PANEL_WIDTH_IN + GAP_IN)
        page.write(figure, left, top + 0.04, panel.dataset, size=9, weight="bold")
        _panel(page.axes(figure, left + 0.3, top + 0.34, PANEL_WIDTH_IN, PANEL_HEIGHT_IN), panel, styles)
    return page.save(path, figure)


def _styles(panels: Sequence[Panel]) -> dict[str, tuple[str, str]]:
    """{name: (colour, legend symbol)}, the same in all panels; the first is grey."""
    colors = iter(palette.RUN_COLORS * 9)
    styles: dict[str, tuple[str, str]] = {}
    for line in (line for panel in panels for line in panel.lines):
        if line.name not in styles:
            color = palette.INK if line.ceiling else palette.MUTED if line.peer else next(colors)
            styles[line.name] = color, line.legend_symbol
    return styles


def _legend_rows(names: Sequence[str], width: float) -> list[list[str]]:
    """Break the names into rows that fit the width of the page."""
    rows: list[list[str]] = [[]]
    left = page.MARGIN_IN
    for name in names:
        entry_width = 0.55 + LETTER_WIDTH_IN * len(name)
        if rows[-1] and left + entry_width > width - page.MARGIN_IN:
            rows.append([])
            left = page.MARGIN_IN
        rows[-1].append(name)
        left += entry_width
    return rows


def _legend(
    figure: Figure, rows: Sequence[Sequence[str]], styles: Mapping[str, tuple[str, str]], top: float
) -> None:
    for number, row in enumerate(rows):
        left = page.MARGIN_IN
        for name in row:
            color, symbol = styles[name]
            left = page.write(figure, left, top + 0.2 * number, symbol, 8, color) + 0.07
            left = page.write(figure, left, top + 0.2 * number, name, 8) + 0.28


def _panel(plot: Axes, panel: Panel, styles: Mapping[str, tuple[str, str]]) -> None:
    plain_axes(plot, "seconds of fine-tuning")
    marks = sorted({mark for line in panel.lines for mark in line.values})
    first = next((mark for mark in marks if mark), 1.0)
    position = {mark: float(np.log2(mark) if mark else np.log2(first) - ZERO_OFFSET) for mark in marks}
    plot.set_xticks([position[mark] for mark in marks], [f"{mark:g}" for mark in marks])
    plot.xaxis.set_minor_locator(NullLocator())
    plot.set_xlim(min(position.values()) - 0.2, max(position.values()) + 0.2)
    all_values = [value for line in panel.lines for values in line.values.values() for value in values]
    low, high = min(all_values, default=0.0), max(all_values, default=1.0)
    span = max(high - low, 0.1)
    plot.set_ylim(max(0.0, low - 0.08 * span), min(1.0, high + 0.08 * span))
    plot.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    for line in panel.lines:
        measured = [mark for mark in sorted(line.values) if line.values[mark]]
        x = np.array([position[mark] for mark in measured])
        mean = np.array([np.mean(line.values[mark]) for mark in measured])
        color = styles[line.name][0]
        style = ":" if line.ceiling else (0, (4, 2)) if line.peer else "-"
        thin = line.ceiling or line.peer
        plot.plot(
            x, mean, color=color, ls=style, lw=1.1 if thin else 1.7, marker="o", markersize=2.6, zorder=3
        )
        if not thin and measured:
            std = [
                np.std(line.values[mark], ddof=1) if len(line.values[mark]) > 1 else 0.0 for mark in measured
            ]
            plot.fill_between(x, mean - std, mean + std, color=color, alpha=0.12, lw=0)
