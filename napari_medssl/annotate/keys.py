"""Keys that mean the annotation, whichever layer is active."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from app_model.types import KeyCode, KeyMod
from napari.layers import Labels, Layer

from napari_medssl.workspace import Workspace

PAINT, ERASE = "P", "E"
UNDO = int(KeyMod.CtrlCmd | KeyCode.KeyZ)
REDO = int(KeyMod.CtrlCmd | KeyMod.Shift | KeyCode.KeyZ)
MODES = {PAINT: "paint", ERASE: "erase"}
Key = str | int


class AnnotationKeys:
    """Binds keys of the viewer.

    napari gives some of them to every labels layer: P would paint on whichever of them is active, and Ctrl+Z
    would do nothing in one that is only looked at. There they get our meaning, too. A labels layer of the
    user keeps its own undo; points and shapes keep all their keys.
    """

    def __init__(self, workspace: Workspace, actions: Mapping[Key, Callable[[], object]]) -> None:
        """Args:
        workspace: The layers of the viewer.
        actions: What each key does; PAINT, ERASE, UNDO and REDO are among them.
        """
        self.workspace, self.viewer, self.actions = workspace, workspace.viewer, actions
        for key, action in actions.items():
            self.viewer.bind_key(key, lambda _viewer, action=action: action(), overwrite=True)
        self.viewer.layers.events.inserted.connect(self._on_inserted)
        for layer in self.viewer.layers:
            self._claim(layer)

    def close(self) -> None:
        """Give all keys back."""
        self.viewer.layers.events.inserted.disconnect(self._on_inserted)
        for owner in (self.viewer, *self.viewer.layers):
            for key in self.actions:
                owner.bind_key(key, None)

    def _on_inserted(self, event: Any) -> None:
        self._claim(event.value)

    def _claim(self, layer: Layer) -> None:
        if isinstance(layer, Labels):
            for key in (PAINT, ERASE) if layer.editable else (PAINT, ERASE, UNDO, REDO):
                layer.bind_key(key, lambda layer, key=key: self._press(layer, key), overwrite=True)

    def _press(self, layer: Labels, key: Key) -> None:
        if key in MODES and self.workspace.annotation_layer is None:
            layer.mode = MODES[key]  # as napari would
        else:
            self.actions[key]()
