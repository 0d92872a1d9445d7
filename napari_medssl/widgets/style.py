"""Looks of the dock: napari's own style sheet and theme, with a little more air and one accent."""

from __future__ import annotations

from napari.utils.theme import get_theme

ACCENT = "#2f9e86"
"""The house's mint, darkened until white text on it is easy to read."""
LINE = "#5fe3c0"


def sheet(theme_id: str) -> str:
    """The dock's style sheet for one of napari's themes."""
    theme = get_theme(theme_id)
    colors = {
        name: getattr(theme, name).as_hex() for name in ("background", "foreground", "primary", "secondary")
    }
    colors |= {name: getattr(theme, name).as_hex() for name in ("highlight", "text")}
    text = _SHEET
    for name, value in colors.items():
        text = text.replace(f"@{name}", value)
    return text.replace("@accent", ACCENT)


def muted(theme_id: str) -> str:
    """Colour of second-rank text."""
    return get_theme(theme_id).icon.as_hex()


_SHEET = """
QPushButton { padding: 6px 10px; border-radius: 4px; }
QPushButton:checked { background-color: @accent; color: white; }
QPushButton[primary="true"] { background-color: @accent; color: white; font-weight: 600; }
QPushButton[primary="true"]:hover { background-color: #37b398; }
QPushButton[primary="true"]:disabled { background-color: @primary; color: @secondary; border: none; }
QPushButton[link="true"] { background: transparent; padding: 2px 4px; color: @highlight; }
QPushButton[swatch="true"] { padding: 0px; border-radius: 3px; min-width: 18px; max-width: 18px;
  min-height: 18px; max-height: 18px; }
QPushButton[header="true"] { background-color: @foreground; text-align: left; border-radius: 4px;
  padding: 8px 10px; font-weight: 600; border: none; }
QPushButton[header="true"]:hover { background-color: @primary; }
QPushButton[header="true"]:checked { background-color: @primary; color: @text; }
QLabel[hint="true"] { color: @highlight; }
QLabel[summary="true"] { color: @highlight; background: transparent; font-weight: 400; }
QListWidget { background-color: @foreground; border-radius: 4px; padding: 3px; outline: none; }
QListWidget::item { padding: 5px 6px; border-radius: 3px; }
QListWidget::item:selected { background-color: @accent; color: white; }
QProgressBar { border: none; border-radius: 3px; background-color: @foreground; max-height: 6px;
  min-height: 6px; }
QProgressBar::chunk { background-color: @accent; border-radius: 3px; }
QComboBox, QLineEdit, QAbstractSpinBox { min-height: 24px; border-radius: 4px; }
QScrollArea { border: none; }
"""
