"""A question before a mask is imported: which label becomes which class, and which slices are complete."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
from medssl.core.io.geometry import AXIS_NAMES
from medssl.core.io.labels import LabelVolume, count_values
from medssl.core.labels.class_ids import NEW_CLASS, ClassIds, assign_ids, with_choices
from medssl.core.labels.import_mask import Completeness, values_in
from medssl.core.project.contents import LabelClass
from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import (
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QFormLayout,
    QTableWidgetItem,
    QWidget,
)

from napari_medssl.qt import Table, not_none
from napari_medssl.widgets.components import column, combo_box, hint

COMPLETE: dict[Completeness, str] = {
    "none": "None",
    "labelled": "Those with labels",
    "ends": "Those with labels, and the empty ones beyond",
}
COMPLETE_TIP = (
    "In complete slices, voxels without a label are background. Choose the empty slices beyond, too, if the "
    "mask shows the structures from end to end"
)
LEAVE_OUT = None
ROW, ROWS = 34, 7


@dataclass(frozen=True)
class Mask:
    """A mask that was read, and what its labels become if nobody chooses otherwise.

    Attributes:
        name: Name of the file or layer.
        volume: The labels on the grid of the scan.
        classes: Classes of the project.
        used: Ids that no new class may have.
    """

    name: str
    volume: LabelVolume
    classes: tuple[LabelClass, ...]
    used: Collection[int]
    voxels: dict[int, int] = field(default_factory=dict)
    """{label: number of voxels}."""
    proposed: ClassIds = field(default_factory=lambda: ClassIds({}))

    @property
    def notes(self) -> str:
        """What was left out or assumed when it was read, as sentences."""
        return " ".join(f"{note[:1].upper()}{note[1:]}." for note in self.volume.notes)

    @classmethod
    def of(
        cls, name: str, volume: LabelVolume, classes: tuple[LabelClass, ...], used: Collection[int]
    ) -> Mask:
        """Look at the labels of a mask.

        Raises:
            UserError: "empty-mask", "too-many".
        """
        values = values_in(name, volume.array)
        proposed = assign_ids(name, values, volume.table, classes, used=used)
        counts = dict(zip(*map(np.ndarray.tolist, count_values(volume.array)), strict=True))
        return cls(name, volume, classes, used, {value: counts[value] for value in values}, proposed)


class MaskPreview(QDialog):
    """A row for each label of a mask, with the class that it becomes."""

    def __init__(self, mask: Mask, axis: int, parent: QWidget | None = None) -> None:
        """Build the dialog.

        Args:
            mask: The mask.
            axis: Canonical axis across the slices on the screen, which may become complete.
            parent: The widget that asks.
        """
        super().__init__(parent)
        self.source, self.axis = mask, axis
        self.setWindowTitle("Import a mask")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.table = Table([("In the mask", ""), ("Volume", ""), ("Becomes", "")], ROW, 0)
        self.boxes: dict[int, QComboBox] = {}
        self._fill()
        self.complete = combo_box()
        for value, text in COMPLETE.items():
            self.complete.addItem(text, value)
        self.complete.setToolTip(COMPLETE_TIP)
        form = QFormLayout()
        form.addRow(f"Complete {AXIS_NAMES[axis]} slices", self.complete)
        standard = QDialogButtonBox.StandardButton
        self.buttons = QDialogButtonBox(standard.Ok | standard.Cancel)
        not_none(self.buttons.button(standard.Ok)).setText("Import")
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        self.notes = hint(mask.notes)
        self.notes.setVisible(bool(mask.volume.notes))
        about = hint(f"{mask.name} is imported as strokes; what is painted already stays as it is.")
        column(self, about, self.table, form, self.notes, self.buttons)
        self.setMinimumWidth(480)

    def chosen(self) -> ClassIds:
        """The classes that were chosen.

        Raises:
            UserError: "too-many".
        """
        mask = self.source
        choices = {value: box.currentData() for value, box in self.boxes.items()}
        kept = {value: class_id for value, class_id in choices.items() if class_id is not LEAVE_OUT}
        return with_choices(mask.name, mask.proposed, kept, mask.volume.table, mask.classes, mask.used)

    def completeness(self) -> Completeness:
        """The slices that become complete."""
        chosen: Completeness = self.complete.currentData()
        return chosen

    def _fill(self) -> None:
        table, mask = self.table, self.source
        table.setRowCount(len(mask.voxels))
        table.setColumnWidth(2, 220)
        table.setSelectionMode(table.SelectionMode.NoSelection)
        table.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        for row, (value, voxels) in enumerate(mask.voxels.items()):
            name = mask.volume.names.get(value)
            label = QTableWidgetItem(f"{name} ({value})" if name else f"Label {value}")
            if color := mask.volume.colors.get(value):
                label.setData(Qt.ItemDataRole.DecorationRole, _swatch(color))
            ml = voxels * mask.volume.geometry.voxel_ml
            volume = QTableWidgetItem(f"{ml:.3g} ml")
            volume.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            table.setItem(row, 0, label)
            table.setItem(row, 1, volume)
            self.boxes[value] = self._box(value)
            table.setCellWidget(row, 2, self.boxes[value])
        table.resizeColumnToContents(1)
        table.setFixedHeight(ROW * (min(len(mask.voxels), ROWS) + 1) + 10)

    def _box(self, value: int) -> QComboBox:
        """The classes that a label may become, with the proposed one selected."""
        mask, box = self.source, combo_box()
        changed = {item.id: item for item in mask.proposed.classes}
        known = {item.id for item in mask.classes}
        for item in mask.classes:
            now = changed.get(item.id, item)
            renamed = now.name != item.name and mask.proposed.ids[value] == item.id
            box.addItem(_swatch(now.color), f"{now.name}, now {item.name}" if renamed else item.name, item.id)
        proposed = mask.proposed.ids[value]
        new = changed.get(proposed) if proposed not in known else None
        box.addItem(f"New class {new.name}" if new else "New class", new.id if new else NEW_CLASS)
        box.addItem("Leave out", LEAVE_OUT)
        box.setCurrentIndex(box.findData(proposed))
        return box


def _swatch(color: str) -> QIcon:
    pixmap = QPixmap(QSize(12, 12))
    pixmap.fill(QColor(color))
    return QIcon(pixmap)
