"""napari-medssl: the plugin. It knows Qt and napari; the engine (package `medssl`) knows torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import napari

__version__ = "0.1.0"


def open_project(folder: str | Path | None = None) -> napari.Viewer:
    """Open a viewer with the dock, and the project in `folder` where it was left.

    The caller runs the event loop (`napari.run()`).
    """
    import napari

    viewer = napari.Viewer(title="napari-medssl")
    _, dock = viewer.window.add_plugin_dock_widget("napari-medssl")
    if folder is not None:
        dock.open(folder)
    return viewer
