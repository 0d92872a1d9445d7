"""The legend on the picture: names and colours of the classes, on a ground that bone does not outshine."""

from __future__ import annotations

from contextlib import suppress
from html import escape

from qtpy.QtCore import Qt
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtWidgets import QLabel, QWidget

from napari_medssl.class_colors import PAINTED, PREDICTED, shade
from napari_medssl.workspace import Workspace

MOST_CLASSES = 12
LONGEST_NAME = 28
MARGIN = 8
STYLE = "background: rgba(0, 0, 0, 170); color: white; border-radius: 4px; padding: 4px 8px;"


class Legend(QLabel):
    """A list in the upper left corner of the canvas, which lets the mouse through."""

    def __init__(self, workspace: Workspace, parent: QWidget) -> None:
        super().__init__(parent)
        self.workspace, self.session = workspace, workspace.session
        self._wanted = False
        self.setStyleSheet(STYLE)
        self.setTextFormat(Qt.TextFormat.RichText)
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.hide()
        for signal in (
            self.session.classes_changed,
            self.session.view_changed,
            workspace.predictions.changed,
        ):
            signal.connect(self.refresh)

    def put_on(self, window: QWidget) -> None:
        """Draw it on the canvas of a window."""
        canvas = window.findChild(QOpenGLWidget)
        if canvas is not None and self.parent() is not canvas:
            self.setParent(canvas)
            self.move(MARGIN, MARGIN)
            self.refresh()

    def close_for_good(self) -> None:
        """Leave the canvas, if it still exists."""
        with suppress(RuntimeError):
            self.deleteLater()

    def want(self, wanted: bool) -> None:
        """Say whether a step is open that the legend belongs to."""
        self._wanted = wanted
        self.refresh()

    def refresh(self) -> None:
        """Show the classes of what is on the picture."""
        project, workspace = self.session.project, self.workspace
        shades = [PAINTED] if workspace.annotation_layer is not None else []
        shades += [PREDICTED] if workspace.predictions.shown_run else []
        shown = (
            self._wanted and project is not None and bool(shades) and isinstance(self.parent(), QOpenGLWidget)
        )
        self.setVisible(shown)
        if not shown or project is None:
            return
        lines = [
            "".join(_square(shade(item.color, each)) for each in shades) + f"&nbsp; {_name(item.name)}"
            for item in project.classes[:MOST_CLASSES]
        ]
        if (more := len(project.classes) - MOST_CLASSES) > 0:
            lines.append(f"and {more} more")
        if len(shades) > 1:
            lines.append("bright: painted, dark: predicted")
        if self.session.annotation.interpolated is not None:
            lines.append("pale outline: interpolated")
        self.setText("<br>".join(lines))
        self.adjustSize()
        self.show()


def _square(color: str) -> str:
    return f'<span style="color:{color}">&#9632;</span>'


def _name(name: str) -> str:
    return escape(name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…")
