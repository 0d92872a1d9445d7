"""The napari plugin: Qt and napari only. The engine, package `medssl`, runs in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medssl import __version__

if TYPE_CHECKING:
    import napari

__all__ = ["__version__", "open_project"]


def open_project(folder: str | Path | None = None) -> napari.Viewer:
    """Open a viewer with the dock, and optionally a project.

    The caller runs the event loop (`napari.run()`).

    Args:
        folder: A project folder; its last scan and slice are shown. Without one the dock is empty.

    Returns:
        The viewer.
    """
    import napari

    viewer = napari.Viewer(title="napari-medssl")
    _, dock = viewer.window.add_plugin_dock_widget("napari-medssl")
    if folder is not None:
        dock.open(folder)
    return viewer
