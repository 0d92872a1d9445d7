"""Curves of training and dots of Dice, in the same house style."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medssl.benchmarking.pictures import page
from medssl.core import palette
from medssl.core.errors import UserError

CHART_HEIGHT_IN = 2.6
ROW_IN = 0.155


@dataclass(frozen=True)
class Curve:
    """One run: pairs (N, 2) of (step or minute, value); either may be empty."""

    title: str
    loss: np.ndarray
    dice: np.ndarray


def read_curve(events: Path, title: str) -> Curve:
    """The curve of a run from its events.jsonl, over steps; half-written last lines are left out.

    Raises UserError ("missing").
    """
    try:
        lines = Path(events).read_text(encoding="utf-8").splitlines()
    except OSError:
        raise UserError(f"{events} cannot be read; check that the run has started.", code="missing") from None
    pairs: dict[str, list[tuple[float, float]]] = {"loss": [], "dice": []}
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("event") == "metric":
            for name in pairs:
                if name in event["values"]:
                    pairs[name].append((event["step"], event["values"][name]))
    loss, dice = (np.array(pairs[name], float).reshape(-1, 2) for name in ("loss", "dice"))
    return Curve(title, loss, dice)


def curves(path: Path, runs: Sequence[Curve], title: str = "", along: str = "steps") -> Path:
    """Draw loss and Dice of several runs, where there are any; `along` names what they run along.

    Thin: the values as they were; thick: their running mean. The first run is the grey one.
    Raises UserError ("unsupported", "not-writable", "disk-full").
    """
    wanted = [("training loss", "loss"), ("Dice", "dice")]
    parts = [each for each in wanted if any(len(getattr(run, each[1])) for run in runs)] or wanted[:1]
    chart_width, names = 3.7, 1.35
    width = 2 * page.MARGIN_IN + len(parts) * (chart_width + names) + (len(parts) - 1) * 0.3
    height = page.heading_height(title) + CHART_HEIGHT_IN + 1.0
    figure = page.page(width, height)
    top = page.heading(figure, title)
    left = page.MARGIN_IN + 0.3
    for words, name in parts:
        page.write(figure, left - 0.3, top + 0.02, words, size=9, weight="bold")
        plot = page.axes(figure, left, top + 0.34, chart_width - 0.3, CHART_HEIGHT_IN)
        plain_axes(plot, along)
        ends = []
        for number, run in enumerate(runs):
            values = getattr(run, name)
            if len(values):
                color = palette.RUN_COLORS[number % len(palette.RUN_COLORS)]
                ends.append((_line(plot, values, color), run.title, color))
        if name == "dice":
            plot.set_ylim(0, 1)
        name_ends(plot, ends)
        left += chart_width + names + 0.3
    return page.save(path, figure)


def plain_axes(plot: Axes, along: str) -> None:
    """Quiet axes with a name below; nothing is drawn yet."""
    plot.set_facecolor(palette.PAGE)
    plot.spines["bottom"].set(visible=True, color=palette.FAINT)
    plot.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    plot.yaxis.set_major_locator(MaxNLocator(5))
    plot.tick_params(colors=palette.MUTED, labelsize=7, length=0, pad=4)
    plot.grid(axis="y", color=palette.FAINT, lw=0.6)
    plot.set_axisbelow(True)
    plot.margins(x=0.02)
    plot.set_xlabel(along, size=7.5, color=palette.MUTED, labelpad=5, family=page.FONT)


def _line(plot: Axes, values: np.ndarray, color: str) -> float:
    """Draw one run; returns the height of its end."""
    x, y = values[:, 0], values[:, 1]
    smooth = y
    if len(y) >= 60:
        plot.plot(x, y, color=color, lw=0.6, alpha=0.3)
        smooth = running_mean(y, len(y) // 30)
    plot.plot(x, smooth, color=color, lw=1.7, solid_capstyle="round")
    plot.plot(x[-1:], smooth[-1:], color=color, marker="o", markersize=3)
    return float(smooth[-1])


def running_mean(values: np.ndarray, reach: int) -> np.ndarray:
    """Mean of `reach` values on both sides: fewer on both near the start, where a run falls steeply; near the
    end the later ones are simply missing, so that the end is not one value's noise."""
    index = np.arange(len(values))
    near = np.minimum(reach, index)
    first, last = index - near, np.minimum(index + near, len(values) - 1) + 1
    total = np.concatenate([[0.0], np.cumsum(values)])
    return (total[last] - total[first]) / (last - first)


def name_ends(plot: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write each run's name beside the end of its line, moved apart where they would touch."""
    low, high = plot.get_ylim()
    inches = plot.get_window_extent().height / plot.figure.dpi
    ends = sorted(ends)
    heights = apart([end for end, _, _ in ends], 0.16 * (high - low) / inches)
    for height, (_, words, color) in zip(heights, ends, strict=True):
        plot.annotate(
            words, (1.02, height), xycoords=("axes fraction", "data"), size=7.5, color=color, va="center",
            family=page.FONT, annotation_clip=False,
        )  # fmt: skip


def apart(wanted: Sequence[float], least: float) -> list[float]:
    """Heights at least `least` apart and as near as can be (least squares) to the wanted ones, which rise.

    Names that would touch form a group around the mean of their places; groups that would touch are joined.
    """
    groups: list[list[float]] = []
    for number, height in enumerate(wanted):
        groups.append([height - number * least])  # in these places "apart" is merely "not falling"
        while len(groups) > 1 and np.mean(groups[-2]) > np.mean(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    flat = [float(np.mean(group)) for group in groups for _ in group]
    return [place + number * least for number, place in enumerate(flat)]


def dice_table(
    path: Path,
    scores: Mapping[str, Mapping[str, Sequence[float]]],
    title: str = "",
    colors: Mapping[str, str] | None = None,
) -> Path:
    """Draw Dice per class for several initialisations: a bar to the mean, a dot for each seed.

    scores: {initialisation: {class name: [Dice of each seed]}}; NaN is left out. The first initialisation
    is the grey one. colors: {class name: "#rrggbb"} for the dots beside the class names.
    Raises UserError ("unsupported", "not-writable", "disk-full").
    """
    names = list(dict.fromkeys(name for of_class in scores.values() for name in of_class))
    group_in = ROW_IN * len(scores) + 0.17
    chart_height = group_in * len(names)
    width = 7.2
    height = page.heading_height(title) + 0.34 + chart_height + 0.62
    figure = page.page(width, height)
    top = page.heading(figure, title)
    _key(figure, list(scores), top)
    left = page.MARGIN_IN + 0.14 + 0.075 * max(len(name) for name in names) + 0.2
    plot = page.axes(figure, left, top + 0.34, width - left - page.MARGIN_IN - 0.5, chart_height)
    plain_axes(plot, "Dice on scans the network never saw; bar: mean, dots: seeds")
    plot.grid(visible=False, axis="y")
    plot.grid(axis="x", color=palette.FAINT, lw=0.6)
    plot.set_yticks([])
    plot.set_xlim(0, 1)
    plot.xaxis.set_major_locator(MaxNLocator(5))
    plot.set_ylim(chart_height, 0)
    for row, name in enumerate(names):
        middle = top + 0.34 + (row + 0.5) * group_in - 0.07
        page.write(
            figure, page.MARGIN_IN, middle, "●" if colors else "", 8, (colors or {}).get(name, palette.INK)
        )
        page.write(figure, page.MARGIN_IN + (0.16 if colors else 0), middle, name, 8)
        for number, of_class in enumerate(scores.values()):
            centre = row * group_in + 0.085 + (number + 0.5) * ROW_IN
            _bar(plot, centre, of_class.get(name, ()), palette.RUN_COLORS[number % len(palette.RUN_COLORS)])
    return page.save(path, figure)


def _key(figure: Figure, titles: Sequence[str], top: float) -> None:
    left = page.MARGIN_IN
    for number, words in enumerate(titles):
        color = palette.RUN_COLORS[number % len(palette.RUN_COLORS)]
        page.write(figure, left, top, "■", 8, color)
        left = page.write(figure, left + 0.16, top, words, 8) + 0.28


def _bar(plot: Axes, centre: float, values: Sequence[float], color: str) -> None:
    known = [value for value in values if np.isfinite(value)]
    if not known:
        plot.text(0.004, centre, "–", color=palette.MUTED, size=7, va="center")
        return
    mean = float(np.mean(known))
    plot.barh(centre, mean, ROW_IN * 0.72, color=color, alpha=0.38, lw=0)
    plot.plot([mean, mean], [centre - 0.36 * ROW_IN, centre + 0.36 * ROW_IN], color=color, lw=1.6)
    plot.scatter(
        known, [centre] * len(known), s=9, color=color, edgecolors=palette.PAGE, linewidths=0.4, zorder=3
    )
    plot.annotate(
        f"{mean:.2f}", (1.015, centre), xycoords=("axes fraction", "data"), size=7, color=color, va="center",
        family=page.FONT, annotation_clip=False,
    )  # fmt: skip
