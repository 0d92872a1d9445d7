"""The house style: pages laid out in inches from the top left corner, text, saving."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from medssl.core import palette
from medssl.core.errors import UserError
from medssl.core.files import write_whole

MARGIN_IN = 0.34
DOTS_PER_INCH = 200
FORMATS = (".png", ".pdf", ".svg")
CAPITALS = 0.73  # height of a capital letter, of the size of the font
FONT = ["DejaVu Sans"]  # comes with matplotlib: the same picture everywhere


def page(width_in: float, height_in: float) -> Figure:
    """An empty page. No pyplot: no global state, no window, usable from any thread."""
    figure = Figure(figsize=(width_in, height_in), facecolor=palette.PAGE, dpi=DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    return figure


def axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Empty axes at a place given in inches from the top left corner of the page."""
    page_width, page_height = figure.get_size_inches()
    place = (left / page_width, 1 - (top + height) / page_height, width / page_width, height / page_height)
    made = figure.add_axes(place, facecolor=palette.PANEL)
    made.set_xticks([])
    made.set_yticks([])
    for spine in made.spines.values():
        spine.set_visible(False)
    return made


def write(
    figure: Figure,
    left: float,
    top: float,
    words: str,
    size: float = 8,
    color: str = palette.INK,
    weight: str = "normal",
    align: str = "left",
) -> float:
    """One line of text with its capitals' upper edge at a place given in inches from the top left corner.

    Returns its right edge in inches.
    """
    page_width, page_height = figure.get_size_inches()
    baseline = top + CAPITALS * size / 72
    text = figure.text(
        left / page_width,
        1 - baseline / page_height,
        words,
        size=size,
        color=color,
        weight=weight,
        ha=align,
        va="baseline",
        family=FONT,
    )
    return float(text.get_window_extent().x1) / figure.dpi


def heading(figure: Figure, title: str) -> float:
    """Write the title of the page, if there is one; returns where the rest may begin."""
    if not title:
        return MARGIN_IN
    write(figure, MARGIN_IN, MARGIN_IN * 0.8, title, size=13, weight="bold")
    return heading_height(title)


def heading_height(title: str) -> float:
    """Inches from the top of the page to what lies below its title."""
    return MARGIN_IN + 0.34 if title else MARGIN_IN


def save(path: Path, figure: Figure) -> Path:
    """Write the page whole, in the format of its ending; returns the path.

    Raises UserError ("unsupported" for another ending than .png, .pdf, .svg; "not-writable", "disk-full").
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in FORMATS:
        raise UserError(
            f"{path} cannot be drawn; use one of the endings {', '.join(FORMATS)}.", "unsupported"
        )
    write_whole(path, lambda file: figure.savefig(file, format=kind[1:], facecolor=palette.PAGE))
    return path
