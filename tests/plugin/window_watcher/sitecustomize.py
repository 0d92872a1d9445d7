"""Python runs this at its start where the folder is in PYTHONPATH (test_view_command.py).

In the process of the viewer it agrees to the place of a new project, waits until a scan is on the screen,
prints what the window shows as a line of JSON, and closes the window.
"""

from __future__ import annotations

import json
import sys

LIMIT_S, INTERVAL_MS = 60, 50


def watch() -> None:
    """Look at the window at intervals."""
    from qtpy.QtCore import QTimer
    from qtpy.QtWidgets import QApplication

    application = QApplication([])
    timer = QTimer(application)
    timer.timeout.connect(close_when_shown)
    timer.start(INTERVAL_MS)
    QTimer.singleShot(1000 * LIMIT_S, lambda: application.exit(3))


def close_when_shown() -> None:
    """Close the window if it shows a scan."""
    from qtpy.QtWidgets import QApplication, QMainWindow

    docks = [each for each in QApplication.allWidgets() if type(each).__name__ == "Dock"]
    if not docks:
        return
    (dock,) = docks
    if dock.scans.new_project.place is not None:
        dock.scans.new_project.agree.click()
    layers = dock.workspace.viewer.layers
    if dock.session.project is None or not len(layers) or dock.scans.adder.busy:
        return
    (window,) = [each for each in QApplication.topLevelWidgets() if isinstance(each, QMainWindow)]
    shown = {"title": window.windowTitle(), "visible": window.isVisible() and dock.isVisible()}
    project = dock.session.project
    print(json.dumps({**shown, "scans": list(project.scans), "layers": [each.name for each in layers]}))
    window.close()


if "napari_medssl" in sys.orig_argv:
    watch()
