"""What a user has chosen for all projects, in the user's own settings folder."""

from __future__ import annotations

import math

from qtpy.QtCore import QSettings


def _settings() -> QSettings:
    """A text file on every system; Qt replaces it whole."""
    return QSettings(QSettings.Format.IniFormat, QSettings.Scope.UserScope, "napari-medssl", "napari-medssl")


def number(key: str) -> float:
    """A positive number; 0 where none was chosen, or the file says something else."""
    try:
        value = float(_settings().value(key, 0.0))
    except (TypeError, ValueError):
        return 0.0
    return value if math.isfinite(value) and value > 0 else 0.0


def set_number(key: str, value: float) -> None:
    """Keep a number."""
    _settings().setValue(key, value)
