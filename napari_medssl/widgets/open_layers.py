"""Choose which of the layers that are open become scans."""

from __future__ import annotations

from collections.abc import Callable

from napari.layers import Image, Layer
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QListWidget, QListWidgetItem, QWidget

from napari_medssl.io.open_layers import open_layers, why_unusable
from napari_medssl.io.scan_adder import count
from napari_medssl.qt import not_none
from napari_medssl.widgets.components import allow, button, column
from napari_medssl.workspace import Workspace

ROW, ROWS = 24, 5
NOT_CHOSEN = "No layer is chosen; tick one in the list."


class OpenLayers(QWidget):
    """A button that adds open layers, below a list of them where there are several; hidden without any."""

    def __init__(self, workspace: Workspace, add: Callable[[list[Image]], object]) -> None:
        super().__init__()
        self._workspace, self._add = workspace, add
        self._listed: list[tuple[Layer, str]] = []
        self._is_first: bool | None = None
        """Whether the list was made while no project was open."""
        self._blocked = ""
        self.choice = QListWidget()
        self.choice.setSelectionMode(QListWidget.SelectionMode.NoSelection)
        self.choice.itemChanged.connect(lambda item: self._show_count())
        self.use = button("", self._on_use, "Add image layers that are open as scans of the project", True)
        column(self, self.choice, self.use).setContentsMargins(0, 0, 0, 0)
        for signal in (workspace.session.view_changed, workspace.session.scans_changed):
            signal.connect(self.refresh)
        self.refresh()

    @property
    def chosen(self) -> list[Image]:
        """The layers to add."""
        items = [not_none(self.choice.item(row)) for row in range(self.choice.count())]
        return [
            layer
            for (layer, _), item in zip(self._listed, items, strict=True)
            if isinstance(layer, Image) and item.checkState() == Qt.CheckState.Checked
        ]

    def refresh(self) -> None:
        """List the layers anew, if they have changed; called for each slice that is shown."""
        listed = [(layer, why_unusable(layer)) for layer in open_layers(self._workspace.viewer.layers)]
        is_first = self._workspace.session.project is None
        if (listed, is_first) == (self._listed, self._is_first):
            return
        self._listed, self._is_first = listed, is_first
        self.choice.blockSignals(True)
        self.choice.clear()
        for layer, reason in listed:
            self.choice.addItem(_item(layer, reason))
        self.choice.blockSignals(False)
        self.choice.setFixedHeight(ROW * min(len(listed), ROWS) + 10)
        reasons = [reason for _, reason in listed]
        self.choice.setVisible(len(listed) > 1 or any(reasons))
        images = any(isinstance(layer, Image) for layer, _ in listed)
        self.setVisible("" in reasons or (is_first and images))
        self._show_count()

    def block(self, why_not: str) -> None:
        """Disable the button and say why; an empty reason enables it where a layer is chosen."""
        self._blocked = why_not
        self._show_count()

    def _show_count(self) -> None:
        chosen = len(self.chosen)
        self.use.setText(f"Use {count(chosen, 'open layer')}")
        allow(self.use, self._blocked or ("" if chosen else NOT_CHOSEN))

    def _on_use(self) -> None:
        self._add(self.chosen)


def _item(layer: Layer, reason: str) -> QListWidgetItem:
    """A row with a check mark, or the reason why the layer cannot be a scan."""
    item = QListWidgetItem(f"{layer.name}: {reason}" if reason else layer.name)
    if reason:
        item.setFlags(Qt.ItemFlag.NoItemFlags)
        item.setToolTip(f"Layer {layer.name!r} cannot be a scan: {reason}.")
    else:
        item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsUserCheckable)
        item.setCheckState(Qt.CheckState.Checked)
    return item
