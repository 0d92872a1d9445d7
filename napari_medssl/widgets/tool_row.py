"""The tools of the annotation, lit as they are in use, and the size of the brush."""

from __future__ import annotations

from collections.abc import Callable

from medssl.core.project.project import SURE_BACKGROUND
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDoubleSpinBox, QPushButton, QWidget

from napari_medssl.widgets.components import button, column, row
from napari_medssl.workspace import Workspace


class ToolRow(QWidget):
    """Paint, sure background, erase; a tool is lit while a stroke on the picture would use it."""

    def __init__(self, workspace: Workspace, use: Callable[[int], object]) -> None:
        """Args:
        workspace: The layers of the viewer.
        use: Takes the tool for a class id, for sure background (255) or the eraser (0).
        """
        super().__init__()
        self._tools, self._brush_size = workspace.tools, workspace.brush_size
        self.brush = _tool("Paint", lambda: use(self._tools.class_id), "Paint the selected class (P)")
        self.sure = _tool(
            "Sure background", lambda: use(SURE_BACKGROUND),
            "Paint voxels that belong to none of the classes (Q)",
        )  # fmt: skip
        self.eraser = _tool("Erase", lambda: use(0), "Remove labels (E)")
        self.diameter = QDoubleSpinBox()
        self.diameter.setToolTip(
            "Diameter of the brush in mm ([ and ]), kept for all scans; a brush has whole voxels"
        )
        self.diameter.setPrefix("Brush ")
        self.diameter.setSuffix(" mm")
        self.diameter.setDecimals(1)
        self.diameter.setRange(0.1, 500)
        self.diameter.setKeyboardTracking(False)
        self.diameter.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.diameter.valueChanged.connect(self._brush_size.set_mm)
        self.diameter.editingFinished.connect(self.setFocus)  # the next letter is a key of the viewer
        tools = row(self.brush, self.sure, self.eraser)
        column(self, tools, self.diameter).setContentsMargins(0, 0, 0, 0)
        self._tools.changed.connect(self.refresh)
        self._brush_size.changed.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Show the tool and the brush that are in use."""
        label = self._tools.label
        self.brush.setChecked(label not in (None, 0, SURE_BACKGROUND))
        self.sure.setChecked(label == SURE_BACKGROUND)
        self.eraser.setChecked(label == 0)
        self.diameter.blockSignals(True)
        self.diameter.setSingleStep(self._brush_size.voxel_mm)
        self.diameter.setValue(self._brush_size.mm)
        self.diameter.blockSignals(False)


def _tool(text: str, action: Callable[[], object], tip: str) -> QPushButton:
    made = button(text, action, tip)
    made.setCheckable(True)
    return made
