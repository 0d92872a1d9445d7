"""A button with a menu of ways to paint less."""

from __future__ import annotations

from collections.abc import Callable

from medssl.core.io.geometry import AXIS_NAMES
from napari.layers import Layer
from qtpy.QtGui import QAction
from qtpy.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QFormLayout,
    QMenu,
    QPushButton,
    QSpinBox,
    QWidget,
)

from napari_medssl.annotate.drawn_layers import DrawnLayers
from napari_medssl.annotate.edits import Edits
from napari_medssl.annotate.empty_slices import EmptySlices
from napari_medssl.annotate.interpolation import Interpolation
from napari_medssl.annotate.range_brush import RangeBrush
from napari_medssl.annotate.seeds import grow_from_seeds
from napari_medssl.error_handling import catch_errors
from napari_medssl.qt import not_none
from napari_medssl.widgets.components import allow, hint
from napari_medssl.widgets.range_row import RangeRow
from napari_medssl.workspace import Workspace

TIP = "Grow from seeds, complete empty slices, take points and shapes, limit the brush to grey values"
GROW_TIP = "Fill this slice from strokes inside the classes and some sure background (Q) around them"
SHAPES_TIP = "Interpolate between the complete slices around this one without looking at the grey values"
LAYER_TIP = "Label what is drawn in a layer with the selected class; points and lines get the brush's width"
NOT_BETWEEN = "This slice lies between no two complete slices; complete one on each side of it."
NOT_DRAWN = "Nothing is drawn; add a points or shapes layer and draw in it."
LIMIT_TIP = "Paint only voxels whose grey values lie in a range"


class FillMenu(QPushButton):
    """A button whose menu fills slices and limits the brush."""

    def __init__(
        self, workspace: Workspace, edits: Edits, interpolation: Interpolation, label: Callable[[], int]
    ) -> None:
        """Args:
        workspace: The layers of the viewer.
        edits: Applies labels as one step of undo.
        interpolation: Interpolates between complete slices.
        label: The selected class id.
        """
        super().__init__("Fill")
        self.workspace, self.session = workspace, workspace.session
        self.interpolation, self.label = interpolation, label
        self.drawn_layers = DrawnLayers(workspace, edits)
        self.empty_slices = EmptySlices(workspace)
        self.range_brush = RangeBrush(workspace)
        self.range_row = RangeRow(self.range_brush)
        self.setToolTip(TIP)
        menu = QMenu(self)
        menu.setToolTipsVisible(True)
        self._add(menu, "Grow from seeds in this slice", GROW_TIP, lambda: grow_from_seeds(workspace, edits))
        self._shapes = self._add(
            menu, "Interpolate shapes only", SHAPES_TIP, lambda: interpolation.interpolate(guided=False)
        )
        self._add(menu, "Complete empty slices…", "", self._ask_for_slices)
        self._layers = not_none(menu.addMenu("From points or shapes layer"))
        self._layers.setToolTipsVisible(True)
        menu.addSeparator()
        limit = self._add(menu, "Limit the brush to grey values", LIMIT_TIP)
        limit.setCheckable(True)
        limit.toggled.connect(self.range_brush.set_on)
        menu.aboutToShow.connect(self._refresh)
        self.setMenu(menu)

    def _add(self, menu: QMenu, text: str, tip: str, do: Callable[[], object] | None = None) -> QAction:
        action = not_none(menu.addAction(text))
        action.setToolTip(tip)
        if do is not None:
            action.triggered.connect(lambda: catch_errors(self.session, do))
        return action

    def _refresh(self) -> None:
        is_between = self.interpolation.possible(self.workspace.slice_on_screen())
        allow(self._shapes, "" if is_between else NOT_BETWEEN)
        drawn = self.drawn_layers.available()
        self._layers.clear()
        allow(not_none(self._layers.menuAction()), "" if drawn else NOT_DRAWN)
        for layer in drawn:
            self._add(self._layers, layer.name, LAYER_TIP, self._taking(layer))

    def _taking(self, layer: Layer) -> Callable[[], None]:
        return lambda: self.drawn_layers.take(layer, self.label())

    def _ask_for_slices(self) -> None:
        axis, first, last = self.empty_slices.proposed()
        end = self.workspace.need_annotation().data.shape[axis] - 1
        dialog = SliceRangeDialog(AXIS_NAMES[axis], first, last, end, self)
        if dialog.exec() == QDialog.DialogCode.Accepted:
            catch_errors(self.session, lambda: self.empty_slices.complete(axis, *dialog.range()))


class SliceRangeDialog(QDialog):
    """Asks for the first and the last of the slices that become complete."""

    def __init__(self, plane: str, first: int, last: int, end: int, parent: QWidget) -> None:
        """Args:
        plane: "axial", "coronal" or "sagittal".
        first: Proposed index of the first slice.
        last: Proposed index of the last slice.
        end: Index of the last slice of the scan.
        parent: Widget whose style is inherited.
        """
        super().__init__(parent)
        self.setWindowTitle("Complete empty slices")
        self.first, self.last = (self._number(value, end) for value in (first, last))
        buttons = QDialogButtonBox(
            QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel
        )
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        form = QFormLayout(self)
        form.addRow(hint(f"Everything in these {plane} slices becomes background; Ctrl+Z takes that back."))
        form.addRow("From slice", self.first)
        form.addRow("to slice", self.last)
        form.addRow(buttons)

    def _number(self, value: int, end: int) -> QSpinBox:
        box = QSpinBox()
        box.setRange(0, end)
        box.setValue(value)
        return box

    def range(self) -> tuple[int, int]:
        """First and last index, whichever way round they were given."""
        return min(self.first.value(), self.last.value()), max(self.first.value(), self.last.value())
