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
        self._tools, self._size = workspace.tools, workspace.brush_size
        self.brush = _tool("Paint", lambda: use(self._tools.class_id), "Paint the selected class (P)")
        self.sure = _tool(
            "Sure background", lambda: use(SURE_BACKGROUND),
            "Paint voxels that belong to none of the classes (Q)",
        )  # fmt: skip
        self.eraser = _tool("Erase", lambda: use(0), "Remove labels (E)")
        self.size = QDoubleSpinBox()
        self.size.setToolTip(
            "Diameter of the brush in mm ([ and ]), kept for all scans; a brush has whole voxels"
        )
        self.size.setPrefix("Brush ")
        self.size.setSuffix(" mm")
        self.size.setDecimals(1)
        self.size.setRange(0.1, 500)
        self.size.setKeyboardTracking(False)
        self.size.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.size.valueChanged.connect(self._size.set_mm)
        tools = row(self.brush, self.sure, self.eraser)
        column(self, tools, self.size).setContentsMargins(0, 0, 0, 0)
        self._tools.changed.connect(self.refresh)
        self._size.changed.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Show the tool and the brush that are in use."""
        label = self._tools.label
        self.brush.setChecked(label not in (None, 0, SURE_BACKGROUND))
        self.sure.setChecked(label == SURE_BACKGROUND)
        self.eraser.setChecked(label == 0)
        self.size.blockSignals(True)
        self.size.setSingleStep(self._size.voxel_mm)
        self.size.setValue(self._size.mm)
        self.size.blockSignals(False)


def _tool(text: str, action: Callable[[], object], tip: str) -> QPushButton:
    made = button(text, action, tip)
    made.setCheckable(True)
    return made
