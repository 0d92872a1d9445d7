"""Training curves and charts of Dice scores."""

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
    """Curves of a run: float (N, 2), pairs (step or time, value); either may be empty."""

    title: str
    loss: np.ndarray
    dice: np.ndarray


def read_curve(events: Path, title: str) -> Curve:
    """Read the curves of a run over steps from its events.jsonl; incomplete lines are skipped.

    Raises:
        UserError: "missing" if the file cannot be read.
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
    """Draw loss and Dice of several runs. Thin lines: values; thick lines: their running mean.

    Args:
        path: output file, .png, .pdf or .svg.
        runs: curves; the first run is drawn in grey.
        title: title of the figure.
        along: label of the horizontal axis.

    Raises:
        UserError: "unsupported", "not-writable" or "disk-full".
    """
    charts = [("training loss", "loss"), ("Dice", "dice")]
    charts = [chart for chart in charts if any(len(getattr(run, chart[1])) for run in runs)] or charts[:1]
    chart_width, names = 3.7, 1.35
    width = 2 * page.MARGIN_IN + len(charts) * (chart_width + names) + (len(charts) - 1) * 0.3
    height = page.heading_height(title) + CHART_HEIGHT_IN + 1.0
    figure = page.page(width, height)
    top = page.heading(figure, title)
    left = page.MARGIN_IN + 0.3
    for heading, name in charts:
        page.write(figure, left - 0.3, top + 0.02, heading, size=9, weight="bold")
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
    """Style empty axes and label the horizontal one."""
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
    """Draw one run; returns the last value of its line."""
    x, y = values[:, 0], values[:, 1]
    smooth = y
    if len(y) >= 60:
        plot.plot(x, y, color=color, lw=0.6, alpha=0.3)
        smooth = running_mean(y, len(y) // 30)
    plot.plot(x, smooth, color=color, lw=1.7, solid_capstyle="round")
    plot.plot(x[-1:], smooth[-1:], color=color, marker="o", markersize=3)
    return float(smooth[-1])


def running_mean(values: np.ndarray, reach: int) -> np.ndarray:
    """Running mean with a window of `reach` values on both sides.

    The window shrinks symmetrically at the start, where a loss falls steeply. At the end only its later half
    shrinks, so that the last mean still averages over noise.

    Args:
        values: float (N,).
        reach: half width of the window.

    Returns:
        float (N,).
    """
    index = np.arange(len(values))
    half_width = np.minimum(reach, index)
    first, last = index - half_width, np.minimum(index + half_width, len(values) - 1) + 1
    total = np.concatenate([[0.0], np.cumsum(values)])
    return (total[last] - total[first]) / (last - first)


def name_ends(plot: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write the names of lines next to their ends, moved apart where they would overlap.

    Args:
        plot: axes with the lines.
        ends: (last value, name, colour) of each line.
    """
    low, high = plot.get_ylim()
    inches = plot.get_window_extent().height / plot.figure.dpi
    ends = sorted(ends)
    heights = apart([end for end, _, _ in ends], 0.16 * (high - low) / inches)
    for height, (_, name, color) in zip(heights, ends, strict=True):
        plot.annotate(
            name, (1.02, height), xycoords=("axes fraction", "data"), size=7.5, color=color, va="center",
            family=page.FONT, annotation_clip=False,
        )  # fmt: skip


def apart(preferred: Sequence[float], least: float) -> list[float]:
    """Move heights to a minimum distance, as close as possible to the preferred ones (least squares).

    Heights that are too close form a group around their mean; groups that overlap are merged.

    Args:
        preferred: heights in ascending order.
        least: minimum distance.
    """
    groups: list[list[float]] = []
    for number, height in enumerate(preferred):
        groups.append([height - number * least])  # after this shift, the constraint is "not descending"
        while len(groups) > 1 and np.mean(groups[-2]) > np.mean(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    flat = [float(np.mean(group)) for group in groups for _ in group]
    return [height + number * least for number, height in enumerate(flat)]


def dice_table(
    path: Path,
    scores: Mapping[str, Mapping[str, Sequence[float]]],
    title: str = "",
    colors: Mapping[str, str] | None = None,
) -> Path:
    """Draw Dice per class for several initialisations: a bar to the mean, a dot for each seed.

    Args:
        path: output file, .png, .pdf or .svg.
        scores: {initialisation: {class name: [Dice of each seed]}}; NaN is skipped. The first initialisation
            is drawn in grey.
        title: title of the figure.
        colors: {class name: "#rrggbb"} of the dots next to the class names.

    Raises:
        UserError: "unsupported", "not-writable" or "disk-full".
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
    plain_axes(plot, "Dice on held-out scans; bar: mean, dots: seeds")
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
    for number, title in enumerate(titles):
        color = palette.RUN_COLORS[number % len(palette.RUN_COLORS)]
        page.write(figure, left, top, "■", 8, color)
        left = page.write(figure, left + 0.16, top, title, 8) + 0.28


def _bar(plot: Axes, centre: float, values: Sequence[float], color: str) -> None:
    defined = [value for value in values if np.isfinite(value)]
    if not defined:
        plot.text(0.004, centre, "–", color=palette.MUTED, size=7, va="center")
        return
    mean = float(np.mean(defined))
    plot.barh(centre, mean, ROW_IN * 0.72, color=color, alpha=0.38, lw=0)
    plot.plot([mean, mean], [centre - 0.36 * ROW_IN, centre + 0.36 * ROW_IN], color=color, lw=1.6)
    plot.scatter(
        defined, [centre] * len(defined), s=9, color=color, edgecolors=palette.PAGE, linewidths=0.4, zorder=3
    )
    plot.annotate(
        f"{mean:.2f}", (1.015, centre), xycoords=("axes fraction", "data"), size=7, color=color, va="center",
        family=page.FONT, annotation_clip=False,
    )  # fmt: skip
