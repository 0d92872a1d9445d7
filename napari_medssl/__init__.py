"""The napari plugin: Qt and napari only. The engine, package `medssl`, runs in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medssl import __version__

if TYPE_CHECKING:
    import napari

__all__ = ["__version__", "view"]


def view(*paths: str | Path) -> napari.Viewer:
    """Open a viewer with the dock, and optionally a project or scans.

    The caller runs the event loop (`napari.run()`).

    Args:
        paths: A project folder, whose last scan and slice are shown; scans or folders of scans, which are
            added to it, or become a new project once the user has agreed to its place. Without any, the dock
            lists the recent projects.

    Returns:
        The viewer.
    """
    import napari

    viewer = napari.Viewer(title="napari-medssl")
    _, dock = viewer.window.add_plugin_dock_widget("napari-medssl")
    dock.open(*paths)
    return viewer
