"""Which screen the tests draw on."""

from __future__ import annotations

import os

import pytest

HAS_SCREEN = bool(os.environ.get("DISPLAY")) or os.name == "nt"
if not HAS_SCREEN:
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")  # enough for widgets, not for a viewer's canvas


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A viewer needs OpenGL, which the offscreen platform has not."""
    if HAS_SCREEN:
        return
    skip = pytest.mark.skip(reason="no display; run under xvfb-run to open a real window")
    for item in items:
        if item.get_closest_marker("viewer"):
            item.add_marker(skip)
