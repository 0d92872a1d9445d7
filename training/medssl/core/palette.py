"""Colours of classes, figures and curves. Imports nothing, so that every layer may use it."""

from __future__ import annotations

# Distinguishable on grey scans, on a dark background and with most kinds of colour blindness: consecutive
# colours differ in lightness as well as in hue.
CLASS_COLORS = (
    "#ff9e64",  # apricot
    "#7aa2ff",  # cornflower
    "#f7d75e",  # straw
    "#5fe3c0",  # mint
    "#d692ff",  # orchid
    "#ff6f91",  # coral
    "#a4d65e",  # leaf
    "#4cc9f0",  # sky
    "#c9a27a",  # sand
    "#f2b5d4",  # rose
)

PAGE = "#11151c"
PANEL = "#000000"
INK = "#e8ecf2"
MUTED = "#8b95a5"
FAINT = "#2a313d"
ACCENT = "#5fe3c0"


def class_color(class_id: int) -> str:
    """Colour "#rrggbb" of class 1, 2, ...; the list repeats after the last colour."""
    return CLASS_COLORS[(class_id - 1) % len(CLASS_COLORS)]


# For lines and bars of runs; the first, a muted grey, is for the baseline.
RUN_COLORS = ("#9aa5b8", "#5fe3c0", "#ff9e64", "#7aa2ff", "#d692ff", "#f7d75e", "#ff6f91")
