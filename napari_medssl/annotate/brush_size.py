"""The size of the brush in mm, the same in every scan, project and session."""

from __future__ import annotations

from napari.components import ViewerModel
from napari.layers import Labels
from psygnal import Signal

from napari_medssl.model import preferences
from napari_medssl.model.session import Session

KEY = "brush_mm"


class BrushSize:
    """Converts between napari's brush size, in voxels, and mm."""

    changed = Signal()

    def __init__(self, viewer: ViewerModel, session: Session) -> None:
        self._viewer = viewer
        self._layer: Labels | None = None
        self._chosen_mm = preferences.number(KEY)
        self._displayed: tuple[int, ...] = ()
        self._applying = False
        session.view_changed.connect(self._on_view)

    @property
    def voxel_mm(self) -> float:
        """The finest spacing in the plane on the screen, which napari counts brushes in."""
        layer, dims = self._layer, self._viewer.dims
        if layer is None:
            return 1.0
        extra = dims.ndim - layer.ndim
        return float(min(layer.scale[axis - extra] for axis in dims.displayed if axis >= extra))

    @property
    def mm(self) -> float:
        """Diameter of the brush in mm; 0 without an annotation."""
        return self._layer.brush_size * self.voxel_mm if self._layer is not None else 0.0

    @property
    def radius_mm(self) -> float:
        """Radius in mm of what napari paints, which is never an even number of voxels wide."""
        return (self._layer.brush_size // 2 + 0.5) * self.voxel_mm if self._layer is not None else 0.0

    def set_mm(self, mm: float) -> None:
        """Choose a diameter in mm; the brush has the nearest number of voxels, at least one."""
        self._chosen_mm = mm
        self._apply()

    def save(self) -> None:
        """Keep the diameter for the next session, if one was chosen."""
        if self._chosen_mm:
            preferences.set_number(KEY, self._chosen_mm)

    def watch(self, layer: Labels) -> None:
        """Give this layer the brush, and follow what napari makes of it.

        Args:
            layer: The annotation layer.
        """
        self._layer = layer
        self._apply()
        layer.events.brush_size.connect(self._on_brush)

    def _apply(self) -> None:
        self._displayed = self._viewer.dims.displayed
        if self._layer is not None and self._chosen_mm:
            self._applying = True
            self._layer.brush_size = max(1, round(self._chosen_mm / self.voxel_mm))
            self._applying = False
        self.changed.emit()

    def _on_brush(self, event: object = None) -> None:
        """By napari's slider or keys."""
        if not self._applying:
            self._chosen_mm = self.mm
            self.changed.emit()

    def _on_view(self) -> None:
        if self._viewer.dims.displayed != self._displayed:
            self._apply()
