"""Style sheet of the dock: napari's theme with more spacing and one accent colour."""

from __future__ import annotations

from napari.utils.theme import get_theme

ACCENT = "#2a9680"
"""The house's mint, darkened until white text on it is easy to read."""
LINK = "#2fa58b"
LINE = "#45c7a8"
"""For curves and links: told from both the dark and the light background."""
DICE_ON_DARK, DICE_ON_LIGHT = "#f2b45c", "#a85f00"
"""For the second curve of a plot, on dark and on light ground."""
NAMES = ("background", "foreground", "primary", "secondary", "highlight", "text", "error", "warning")


def sheet(theme_id: str) -> str:
    """The dock's style sheet for one of napari's themes."""
    theme = get_theme(theme_id)
    colors = {name: getattr(theme, name).as_rgb_tuple(alpha=False) for name in NAMES}
    colors["muted"] = tuple(
        round(0.62 * text + 0.38 * ground)
        for text, ground in zip(colors["text"], colors["background"], strict=True)
    )
    sheet = _SHEET.replace("@accent", ACCENT)
    for name, color in colors.items():
        sheet = sheet.replace(f"@{name}", f"rgb{color}")
    return sheet


_SHEET = """
QPushButton { padding: 6px 10px; border-radius: 4px; }
QPushButton:checked { background-color: @accent; color: white; }
QPushButton:disabled { background-color: @foreground; color: @secondary; border: none; }
QPushButton[primary="true"] { background-color: @accent; color: white; font-weight: 600; }
QPushButton[primary="true"]:hover { background-color: #33b095; }
QPushButton[primary="true"]:disabled { background-color: @foreground; color: @secondary; border: none; }
QPushButton[swatch="true"] { padding: 0px; border-radius: 3px; min-width: 18px; max-width: 18px;
  min-height: 18px; max-height: 18px; }
QPushButton[header="true"] { background-color: @foreground; color: @text; text-align: left;
  border-radius: 4px; padding: 8px 10px; font-weight: 600; border: none; }
QPushButton[header="true"]:hover { background-color: @primary; }
QPushButton[header="true"]:checked { background-color: @primary; color: @text; }
QPushButton[advanced="true"] { background: transparent; color: @muted; text-align: left; border: none;
  padding: 2px 0px; }
QPushButton[advanced="true"]:checked { background: transparent; color: @text; }
QPushButton[reset="true"] { background: transparent; padding: 0px; min-width: 20px; max-width: 20px; }
QLabel[hint="true"], QLabel[summary="true"] { color: @muted; }
QLabel[summary="true"] { background: transparent; font-weight: 400; }
QLabel[message="error"] { border-left: 3px solid @error; padding: 4px 8px; color: @text; }
QLabel[message="warning"] { border-left: 3px solid @warning; padding: 4px 8px; color: @text; }
QListWidget, QTableWidget { background-color: @foreground; border-radius: 4px; padding: 3px; outline: none; }
QListWidget::item, QTableWidget::item { padding: 5px 6px; }
QListWidget::item { border-radius: 3px; }
QListWidget::item:selected, QTableWidget::item:selected { background-color: @accent; color: white; }
QComboBox, QLineEdit, QAbstractSpinBox { min-height: 24px; border-radius: 4px; }
QComboBox, QComboBox:disabled { border: 1px solid transparent; }
QScrollArea { border: none; }
"""
