"""The range of grey values that limits the brush: a slider, two numbers, and whether clicks set it."""

from __future__ import annotations

import numpy as np
from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import QCheckBox, QDoubleSpinBox, QVBoxLayout, QWidget
from superqt import QDoubleRangeSlider

from napari_medssl.annotate.range_brush import RangeBrush
from napari_medssl.contrast import percentiles
from napari_medssl.widgets.components import row

PERCENTILES = (0.1, 99.9)
"""The ends of the slider."""
NO_LIMIT = 1e9
CLICK_TIP = "Each stroke takes the range from the grey values around its first click"
RANGE_TIP = "Lowest and highest grey value that is painted, in the channel on the screen"


class RangeRow(QWidget):
    """Visible while the brush is limited."""

    def __init__(self, brush: RangeBrush) -> None:
        super().__init__()
        self.brush = brush
        self._fitted: object = None
        """The channel and the layer whose grey values the slider spans."""
        self.slider = QDoubleRangeSlider(Qt.Orientation.Horizontal)
        self.slider.setToolTip(RANGE_TIP)
        self.slider.valueChanged.connect(lambda values: brush.set_range(*values))
        self.ends = (self._number(), self._number())
        self.from_click = QCheckBox("From click")
        self.from_click.setToolTip(CLICK_TIP)
        self.from_click.setChecked(brush.follows_click)
        self.from_click.toggled.connect(brush.set_follows_click)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(row(*self.ends, self.from_click))
        layout.addWidget(self.slider)
        brush.changed.connect(self._refresh)
        brush.session.scan_changed.connect(self._fit)
        brush.workspace.channels.changed.connect(self._fit)
        self._refresh()

    def _number(self) -> QDoubleSpinBox:
        box = QDoubleSpinBox()
        box.setRange(-NO_LIMIT, NO_LIMIT)
        box.setDecimals(0)
        box.setToolTip(RANGE_TIP)
        box.setAlignment(Qt.AlignmentFlag.AlignCenter)
        box.editingFinished.connect(lambda: self.brush.set_range(*sorted(end.value() for end in self.ends)))
        return box

    def _fit(self) -> None:
        """Let the slider span the grey values of the channel on the screen."""
        front = self.brush.workspace.channels.front
        if front is None or (front[0], front[1].unique_id) == self._fitted:
            return
        part, layer = front
        self._fitted = part, layer.unique_id
        low, high = percentiles(layer.data, *PERCENTILES)
        decimals = int(np.clip(2 - np.floor(np.log10(high - low)), 0, 6))  # three digits
        for end in self.ends:
            end.setDecimals(decimals)
            end.setSingleStep(10.0 ** (1 - decimals))
        with QSignalBlocker(self.slider):
            self.slider.setRange(low, high)
        self._refresh()

    def _refresh(self) -> None:
        self.setVisible(self.brush.on)
        for end, value in zip(self.ends, self.brush.range, strict=True):
            end.setValue(value)
        with QSignalBlocker(self.slider):
            self.slider.setValue(self.brush.range)
