"""The grey-value window of what is on the screen: presets for CT, percentiles for others, and dragging."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from medssl.core.io.intensity import HounsfieldScale
from napari.layers import Image
from psygnal import Signal
from qtpy.QtCore import QEvent, QObject, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QWidget

from napari_medssl.contrast import percentiles
from napari_medssl.workspace import Workspace

DRAG_PIXELS = 300
"""A drag over this distance changes window or level by the width that the window had."""
DRAG_KEYS = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier
"""With the left button, for pointers without a middle one."""


@dataclass(frozen=True)
class Preset:
    """A window in Hounsfield units, and its key."""

    name: str
    key: str
    level: float
    width: float


PRESETS = (
    Preset("Soft tissue", "F3", 50, 400),
    Preset("Lung", "F4", -600, 1500),
    Preset("Bone", "F5", 400, 1800),
    Preset("Brain", "F6", 40, 80),
    Preset("Liver", "F7", 30, 150),
    Preset("Mediastinum", "F8", 50, 350),
)
"""Usual windows of radiology reports; F2 is for renaming, so the keys begin with F3."""
AUTO_KEY = "F9"


class WindowLevel:
    """Sets the contrast limits of the scan on the screen, and keeps each scan's while the dock is open.

    Of several channels it sets those of the first that is visible.
    """

    changed = Signal()
    """Another scan or channel, or another window of it."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.session = workspace, workspace.session
        self._kept: dict[str, tuple[float, float]] = {}
        self._watched: Image | None = None
        self._scale: tuple[object, HounsfieldScale] = (None, HounsfieldScale())
        self._drag = WindowDrag(self)
        self.session.scan_leaving.connect(self._keep)
        self.session.project_changed.connect(self._forget)
        self.session.scan_changed.connect(self._restore)
        workspace.channels.changed.connect(self._on_channels)

    @property
    def is_ct(self) -> bool:
        """Whether the channel on the screen is taken as a CT, so that the presets apply."""
        front = self.workspace.channels.front
        return front is not None and front[0].modality == "ct"

    def apply(self, preset: Preset) -> None:
        """Set a window in Hounsfield units; nothing for other images than CT."""
        if self.is_ct:
            scale = self._hounsfield()
            low, high = preset.level - preset.width / 2, preset.level + preset.width / 2
            self.set_limits(scale.stored(low), scale.stored(high))

    def auto(self) -> None:
        """Set the window from the percentiles of the grey values."""
        layer = self._layer
        if layer is not None:
            self.set_limits(*percentiles(layer.data))

    def limits(self) -> tuple[float, float] | None:
        """The window's limits in values of the layer; None without a scan on the screen."""
        layer = self._layer
        return (float(layer.contrast_limits[0]), float(layer.contrast_limits[1])) if layer else None

    def set_limits(self, low: float, high: float) -> None:
        """Set the window in values of the layer."""
        layer = self._layer
        if layer is not None:
            layer.contrast_limits = (low, max(high, np.nextafter(np.float32(low), np.float32(np.inf))))

    def describe(self) -> str:
        """The window as text: a preset's name, or level and width; empty without a scan on the screen."""
        limits = self.limits()
        if limits is None:
            return ""
        if self.is_ct:
            low, high = (self._hounsfield().hounsfield(limit) for limit in limits)
            for preset in PRESETS:
                if (
                    np.allclose((low + high) / 2 - preset.level, 0, atol=1)
                    and abs(high - low - preset.width) < 2
                ):
                    return preset.name
        else:
            low, high = limits
        return f"L {(low + high) / 2:.4g}  W {high - low:.4g}"

    def drag_on(self, widget: QWidget) -> None:
        """Let drags over a widget that shows slices change the window."""
        widget.installEventFilter(self._drag)

    def close(self) -> None:
        """Disconnect from the layer and from the widgets."""
        self._watch(None)
        with suppress(RuntimeError):  # at the end of the program Qt may have deleted it already
            self._drag.deleteLater()

    @property
    def _layer(self) -> Image | None:
        return self.workspace.front_layer

    def _hounsfield(self) -> HounsfieldScale:
        layer = self._layer
        if layer is not None and self._scale[0] is not layer.data:
            self._scale = (layer.data, HounsfieldScale.of(np.asarray(layer.data)))
        return self._scale[1]

    def _keep(self) -> None:
        """The scan is about to leave the screen."""
        layer = self.workspace.scan_layer
        if layer is not None and self.session.scan is not None:
            self._kept[self.session.scan] = (float(layer.contrast_limits[0]), float(layer.contrast_limits[1]))

    def _forget(self) -> None:
        self._kept.clear()

    def _restore(self) -> None:
        """A scan has come to the screen: its last window, or at first the usual one of a CT."""
        self._watch(self._layer)
        kept, layer = self._kept.get(self.session.scan or ""), self.workspace.scan_layer
        if kept is None:
            self.apply(PRESETS[0])
        elif layer is not None:
            layer.contrast_limits = kept
        self.changed.emit()

    def _on_channels(self) -> None:
        """Another channel may be the first that is visible."""
        if self._layer != self._watched:  # not "is": a plugin's viewer has proxies
            self._watch(self._layer)
            self.changed.emit()

    def _watch(self, layer: Image | None) -> None:
        if self._watched is not None:
            self._watched.events.contrast_limits.disconnect(self._on_limits)
        self._watched = layer
        if layer is not None:
            layer.events.contrast_limits.connect(self._on_limits)

    def _on_limits(self, event: object = None) -> None:
        self.changed.emit()


class WindowDrag(QObject):
    """Drags with the middle button, or the left one with Ctrl and Shift: right is wider, up is brighter.

    The canvas does not get these events: in napari the middle button would paint.
    """

    def __init__(self, window: WindowLevel) -> None:
        super().__init__()
        self._window = window
        self._start: tuple[QPointF, tuple[float, float]] | None = None

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Take the events of a drag; all others pass."""
        if not isinstance(event, QMouseEvent):
            return False
        if event.type() in (QEvent.Type.MouseButtonPress, QEvent.Type.MouseButtonDblClick):
            return self._begin(event)
        if self._start is None:
            return False
        if event.type() == QEvent.Type.MouseMove:
            self._move(event.position())
        elif event.type() == QEvent.Type.MouseButtonRelease:
            self._start = None
        return True

    def _begin(self, event: QMouseEvent) -> bool:
        middle = event.button() == Qt.MouseButton.MiddleButton
        with_keys = event.button() == Qt.MouseButton.LeftButton and event.modifiers() == DRAG_KEYS
        limits = self._window.limits()
        if not (middle or with_keys) or limits is None or self._window.workspace.viewer.dims.ndisplay != 2:
            return False
        self._start = (event.position(), limits)
        return True

    def _move(self, position: QPointF) -> None:
        assert self._start is not None
        start, (low, high) = self._start
        moved, width = position - start, high - low
        level = (low + high) / 2 + moved.y() * width / DRAG_PIXELS
        width *= max(1 + moved.x() / DRAG_PIXELS, 0.01)
        self._window.set_limits(level - width / 2, level + width / 2)
