"""A line above the steps: how the scan is shown, whichever step is open."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from qtpy.QtGui import QAction
from qtpy.QtWidgets import QMenu, QSizePolicy, QWidget

from napari_medssl.annotate.keys import Key
from napari_medssl.model.reasons import NO_SCAN
from napari_medssl.qt import not_none
from napari_medssl.reading.reading_tools import ReadingTools
from napari_medssl.reading.window_level import AUTO_KEY, PRESETS
from napari_medssl.widgets.components import allow, button, column, row

WINDOW_TIP = (
    "Window of grey values: presets in Hounsfield units for CT, percentiles for others. To change it, drag "
    "over the picture with the middle mouse button, or the left one with Ctrl+Shift: right is wider, up is "
    "brighter"
)

PLANES_TIP = (
    "Axial, coronal and sagittal slices with a cross-hair (F10). A click moves it, and so does the pointer "
    "while Shift is held. In the planes below, the wheel goes through slices, Ctrl+wheel zooms, the right "
    "button pans, and a double click enlarges. Brush and eraser work in all three"
)
PLANES_KEY = "F10"
CHANNELS_TIP = (
    "Show one channel of the scan after the other, then all together: the first in grey, the others over it "
    "in colour (G). The window is that of the first channel that is visible"
)
CHANNELS_KEY = "G"
ONE_CHANNEL = "This scan has one channel; right-click its row in step 1 to add another."
READING_CHANNELS = "The other channels of this scan are being read."


class ViewBar(QWidget):
    """The menu of windows, the switch of the three planes, and, where a scan has several, its channels."""

    def __init__(self, tools: ReadingTools) -> None:
        super().__init__()
        self.tools, self.window_level = tools, tools.window
        self.session, self.channels = tools.workspace.session, tools.workspace.channels
        self.window_button = button("Window", lambda: None, WINDOW_TIP)
        self.keys: dict[Key, Callable[[], object]] = {
            PLANES_KEY: self.switch_planes,
            CHANNELS_KEY: self.step_channels,
        }
        """By key."""
        self.menu = QMenu(self.window_button)
        self.presets = [
            self._entry(preset.name, preset.key, partial(self.window_level.apply, preset))
            for preset in PRESETS
        ]
        self.menu.addSeparator()
        self._entry("Auto (1 % to 99.5 %)", AUTO_KEY, self.window_level.auto)
        self.window_button.setMenu(self.menu)
        self.planes_button = button("Three planes", self.switch_planes, PLANES_TIP)
        self.planes_button.setCheckable(True)
        self.channels_button = button("Channel", self.step_channels, CHANNELS_TIP)
        buttons = row(self.window_button, self.planes_button)
        for place, (widget, share) in enumerate(((self.window_button, 2), (self.planes_button, 1))):
            widget.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)  # whatever it says
            buttons.setStretch(place, share)
        column(self, buttons, self.channels_button).setContentsMargins(8, 6, 8, 0)
        for signal in (tools.three_planes.changed, self.window_level.changed):
            signal.connect(self.refresh)
        for signal in (self.channels.changed, self.session.scans_changed, self.session.scan_changed):
            signal.connect(self._show_channels)
        self.refresh()
        self._show_channels()

    def refresh(self) -> None:
        """Show the window of the scan on the screen, and the presets where they apply."""
        text = self.window_level.describe()
        self.window_button.setText(f"Window: {text}" if text else "Window")
        why_not = "" if text else NO_SCAN
        allow(self.window_button, why_not)
        for entry in self.presets:
            entry.setVisible(self.window_level.is_ct)
        allow(self.planes_button, why_not)
        self.planes_button.setChecked(self.tools.three_planes.on)

    def _show_channels(self) -> None:
        """Name the channels on the screen; a project without any has no button."""
        scans = self.session.project.scans.values() if self.session.project is not None else ()
        self.channels_button.setVisible(any(scan.channels for scan in scans))
        allow(self.channels_button, self._why_one_channel())
        names = self.channels.visible()
        self.channels_button.setText(f"Channel{'s' * (len(names) > 1)}: {' + '.join(names) or 'none'}")

    def _why_one_channel(self) -> str:
        """Why no other channel can be shown; empty if one can."""
        scan = self.channels.scan
        if scan is None:
            return NO_SCAN
        reading = READING_CHANNELS if len(self.channels.parts) == 1 else ""
        return reading if scan.channels else ONE_CHANNEL

    def step_channels(self) -> None:
        """Show the next channel alone, and after the last one all of them together."""
        if why_not := self._why_one_channel():
            self.session.notify("warning", why_not)
        else:
            self.channels.step()

    def switch_planes(self) -> None:
        """Show the two other planes, or remove them."""
        self.tools.three_planes.switch(not self.tools.three_planes.on, self)

    def _entry(self, text: str, key: str, action: Callable[[], object]) -> QAction:
        entry = not_none(self.menu.addAction(f"{text}\t{key}"))
        entry.triggered.connect(lambda: action())
        self.keys[key] = action
        return entry
