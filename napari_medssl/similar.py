"""Click a voxel: where else in the scan do the features look like this?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from medssl.errors import UserError
from medssl.similarity import FeatureCache, open_features, query_at, similarity
from napari.layers import Layer

from napari_medssl import layers
from napari_medssl.guard import guarded
from napari_medssl.workspace import Workspace

CLICK_PIXELS = 4
"""How far a hand may tremble between press and release."""


class Similar:
    """The similarity layer of the scan on the screen, which follows clicks while it is switched on."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.session = workspace, workspace.session
        self.run: str | None = None
        """The run whose features are looked at."""
        self._cache: FeatureCache | None = None
        self._hidden: list[Layer] = []
        self.session.runs_changed.connect(self._forget)

    def _forget(self) -> None:
        """Features may have been computed anew."""
        self._cache = None

    def follow(self, on: bool) -> None:
        """Listen to clicks in the canvas, with a free view of the scan, or stop listening."""
        viewer = self.workspace.viewer
        if on and self._on_mouse not in viewer.mouse_drag_callbacks:
            covers = (self.workspace.annotation_layer, self.workspace.prediction_layer)
            self._hidden = [layer for layer in covers if layer is not None and layer.visible]
            viewer.layers.selection.active = self.workspace.scan_layer
            viewer.mouse_drag_callbacks.append(self._on_mouse)
        if not on and self._on_mouse in viewer.mouse_drag_callbacks:
            viewer.mouse_drag_callbacks.remove(self._on_mouse)
        for layer in self._hidden:
            layer.visible = not on
        similar = layers.find(viewer.layers, layers.SIMILARITY)
        if similar is not None:
            similar.visible = on

    def close(self) -> None:
        """Let the viewer go."""
        if self._on_mouse in self.workspace.viewer.mouse_drag_callbacks:
            self.workspace.viewer.mouse_drag_callbacks.remove(self._on_mouse)

    def show(self, voxel: tuple[int, int, int]) -> None:
        """Show the similarity of the whole scan to one voxel (z, y, x).

        Raises UserError ("no-features").
        """
        cache = self._open()
        values = similarity(cache, query_at(cache, voxel))
        viewer, scan = self.workspace.viewer, self.session.need_scan()
        layer = layers.find(viewer.layers, layers.SIMILARITY)
        if layer is not None and layer.data.shape == values.shape:
            layer.data = values
            return
        layer = layers.similarity_layer(values, scan.geometry, cache.step_vox, scan.id)
        above = self.workspace.scan_layer
        active = viewer.layers.selection.active
        viewer.layers.insert(viewer.layers.index(above) + 1 if above is not None else 0, layer)
        viewer.layers.selection.active = active

    def _open(self) -> FeatureCache:
        run, scan = self.run, self.session.scan
        if run is None or scan is None:
            raise UserError(
                'This scan has no features yet; press "Compute features" first.', code="no-features"
            )
        if self._cache is None or (self._cache.run, self._cache.scan) != (run, scan):
            self._cache = open_features(self.session.need_project(), scan, run)
        return self._cache

    def _on_mouse(self, viewer: Any, event: Any) -> Iterator[None]:
        """A click that stays where it is; a drag still moves the view."""
        start = np.asarray(event.pos)
        farthest = 0.0
        yield
        while event.type == "mouse_move":
            farthest = max(farthest, float(np.linalg.norm(np.asarray(event.pos) - start)))
            yield
        layer = self.workspace.scan_layer
        if farthest > CLICK_PIXELS or layer is None or viewer.dims.ndisplay != 2:
            return
        voxel = layers.voxel_at(layer, event.position)
        if voxel is not None:
            guarded(self.session, lambda: self.show(voxel))
