"""Which tool paints on the annotation: read from napari's layers, which napari's own buttons change, too."""

from __future__ import annotations

from medssl.core.project.project import SURE_BACKGROUND
from napari.components import ViewerModel
from napari.layers import Labels
from psygnal import Signal

from napari_medssl import navigation
from napari_medssl.model.session import Session

NO_CLASS = "no-class"
"""Subject of what is said about a label without a class, until another one is selected."""


class Tools:
    """Follows the tool of the annotation layer, and keeps tool and class from scan to scan."""

    changed = Signal()
    """Another tool or class is in use."""

    def __init__(self, viewer: ViewerModel, session: Session) -> None:
        self.viewer, self.session = viewer, session
        self.class_id = 1
        """Id of the class that was selected last."""
        self._layer: Labels | None = None
        self._kept: int | None = None
        self._put_down = ""
        """The mode to return to from 3D; empty in 2D, and where no tool was in use."""
        session.scan_leaving.connect(self._keep)
        session.view_changed.connect(self.changed.emit)

    @property
    def label(self) -> int | None:
        """What a stroke on the canvas sets: a class id, 255 for sure background, 0 for the eraser.

        None while strokes do not change the annotation: in another mode, with another active layer, or where
        no slice of the scan is on the screen.
        """
        in_hand = self._in_hand
        on_slice = in_hand is not None and navigation.slice_on_screen(self.viewer.dims, self._layer)
        return in_hand if on_slice else None

    @property
    def _in_hand(self) -> int | None:
        """The same, if there were a slice of the scan on the screen."""
        layer = self._layer
        if layer is None or self.viewer.layers.selection.active != layer:  # a plugin's viewer has proxies
            return None
        return {"paint": int(layer.selected_label), "erase": 0}.get(self._put_down or layer.mode)

    def watch(self, layer: Labels) -> None:
        """Follow this layer from now on, with the tool and the class of the layer before.

        Args:
            layer: The annotation layer.
        """
        self._layer, self._put_down = layer, ""
        ids = self._class_ids()
        if self.class_id not in ids:
            self.class_id = ids[0]
        layer.selected_label = SURE_BACKGROUND if self._kept == SURE_BACKGROUND else self.class_id
        if self._kept is not None:
            layer.mode = "paint" if self._kept else "erase"
        layer.events.selected_label.connect(self._on_label)
        layer.events.mode.connect(self._on_mode)

    def follow_view(self) -> None:
        """Put a tool down in 3D, where it keeps the mouse from turning the view; take it up again in 2D."""
        layer = self._layer
        if layer is None:
            return
        if self.viewer.dims.ndisplay == 3 and layer.mode in ("paint", "erase"):
            self._put_down, layer.mode = str(layer.mode), "pan_zoom"
        elif self.viewer.dims.ndisplay == 2 and self._put_down:
            if layer.mode == "pan_zoom":
                layer.mode = self._put_down
            self._put_down = ""

    def _keep(self) -> None:
        if self._layer in self.viewer.layers:
            self._kept = self._in_hand

    def _on_mode(self, event: object = None) -> None:
        self.changed.emit()

    def _on_label(self, event: object = None) -> None:
        """napari selects any label; strokes of one without a class would be invisible, so it is refused."""
        layer = self._layer
        if layer is None:
            return
        label = int(layer.selected_label)
        if label in self._class_ids():
            self.class_id = label
        elif label not in (0, SURE_BACKGROUND):
            layer.selected_label = self.class_id  # which ends what was said about another one
            text = f"Label {label} has no class; add a class in step 2 to paint it."
            self.session.notify("warning", text, [NO_CLASS])
            return
        self.session.messages.end(NO_CLASS)
        self.changed.emit()

    def _class_ids(self) -> list[int]:
        return [item.id for item in self.session.need_project().classes]
