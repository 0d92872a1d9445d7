"""What belongs to the view of a viewer with a dock, whichever step is open."""

from __future__ import annotations

from contextlib import suppress

from qtpy.QtWidgets import QWidget

from napari_medssl import navigation
from napari_medssl.annotate.edits import Edits
from napari_medssl.annotate.range_brush import RangeBrush
from napari_medssl.qt import timer
from napari_medssl.reading.canvas import main_canvas
from napari_medssl.reading.directions import ViewerLetters
from napari_medssl.reading.surfaces import Surfaces
from napari_medssl.reading.three_planes import ThreePlanes
from napari_medssl.reading.window_level import WindowLevel
from napari_medssl.workspace import Workspace

SCALE_BAR_MS = 300
"""How long after the dock the scale bar comes: napari loads all units for it, which takes up to a second."""


class ReadingTools:
    """Letters at the edges, scale bar, the window of grey values, three planes and surfaces."""

    def __init__(self, workspace: Workspace, edits: Edits, range_brush: RangeBrush) -> None:
        self.workspace = workspace
        self.window = WindowLevel(workspace)
        self.three_planes = ThreePlanes(edits, range_brush, self.window)
        self.surfaces = Surfaces(workspace)
        self.letters: ViewerLetters | None = None
        self._scale_bar_timer = timer(SCALE_BAR_MS, self._show_scale_bar)

    def _show_scale_bar(self) -> None:
        navigation.scale_bar_of(self.workspace.viewer).visible = True

    def attach(self, widget: QWidget) -> None:
        """Find the canvas, once a widget is in the main window."""
        canvas = main_canvas(widget)
        if canvas is not None and self.letters is None:
            self.letters = ViewerLetters(self.workspace.viewer, canvas)
            self.window.drag_on(canvas)
            self._scale_bar_timer.start()

    def close(self) -> None:
        """Disconnect from viewer and canvas."""
        with suppress(RuntimeError):  # at the end of the program Qt may have deleted it already
            self._scale_bar_timer.stop()
        self.surfaces.close()
        self.three_planes.close()
        self.window.close()
        if self.letters is not None:
            self.letters.close()
