"""Layout of figures in inches from the top left corner, text, and saving."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from medssl.core import palette
from medssl.core.errors import UserError
from medssl.core.files import make_folder, write_whole

MARGIN_IN = 0.34
DOTS_PER_INCH = 200
FORMATS = (".png", ".pdf", ".svg")
CAPITALS = 0.73  # height of a capital letter relative to the font size
FONT = ["DejaVu Sans"]  # bundled with matplotlib: the same figure on all machines


def page(width_in: float, height_in: float) -> Figure:
    """Create an empty page. Without pyplot there is no global state and no window, so any thread can draw."""
    figure = Figure(figsize=(width_in, height_in), facecolor=palette.PAGE, dpi=DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    return figure


def axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add empty axes; position and size in inches from the top left corner of the page."""
    page_width, page_height = figure.get_size_inches()
    rectangle = (
        left / page_width,
        1 - (top + height) / page_height,
        width / page_width,
        height / page_height,
    )
    plot = figure.add_axes(rectangle, facecolor=palette.PANEL)
    plot.set_xticks([])
    plot.set_yticks([])
    for spine in plot.spines.values():
        spine.set_visible(False)
    return plot


def write(
    figure: Figure,
    left: float,
    top: float,
    text: str,
    size: float = 8,
    color: str = palette.INK,
    weight: str = "normal",
    align: str = "left",
) -> float:
    """Write one line of text.

    Args:
        figure: page.
        left: position in inches from the left edge.
        top: position of the upper edge of capital letters in inches from the top edge.
        text: the line.
        size: font size in points.
        color: colour of the text.
        weight: font weight.
        align: horizontal alignment.

    Returns:
        Right edge of the text in inches.
    """
    page_width, page_height = figure.get_size_inches()
    baseline = top + CAPITALS * size / 72
    artist = figure.text(
        left / page_width,
        1 - baseline / page_height,
        text,
        size=size,
        color=color,
        weight=weight,
        ha=align,
        va="baseline",
        family=FONT,
    )
    return float(artist.get_window_extent().x1) / figure.dpi


def heading(figure: Figure, title: str) -> float:
    """Write the title of the page, if any; returns the top of the remaining area in inches."""
    if not title:
        return MARGIN_IN
    write(figure, MARGIN_IN, MARGIN_IN * 0.8, title, size=13, weight="bold")
    return heading_height(title)


def heading_height(title: str) -> float:
    """Height of the margin and the title in inches."""
    return MARGIN_IN + 0.34 if title else MARGIN_IN


def save(path: Path, figure: Figure) -> Path:
    """Write the page atomically in the format of the file ending; returns the path.

    Raises:
        UserError: "unsupported" if the ending is not .png, .pdf or .svg; "not-writable" or "disk-full".
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise UserError(
            f"{path} cannot be drawn; use one of the endings {', '.join(FORMATS)}.", "unsupported"
        )
    make_folder(path.parent)
    write_whole(path, lambda file: figure.savefig(file, format=suffix[1:], facecolor=palette.PAGE))
    return path
