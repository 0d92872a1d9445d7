"""Click a voxel: where else in the scan do the features look like this?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from medssl.errors import UserError
from medssl.similarity import FeatureCache, query_at, similarity

from napari_medssl import layers
from napari_medssl.session import guarded
from napari_medssl.workspace import Workspace


class Similar:
    """The similarity layer of the scan on the screen, which follows clicks while it is switched on."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.session = workspace, workspace.session
        self._cache: FeatureCache | None = None
        self._opened = Path()

    def newest(self) -> Path | None:
        """The newest features of the scan on the screen."""
        project, scan = self.session.project, self.session.scan
        if project is None or scan is None:
            return None
        found = sorted((project.root / "features").glob(f"{scan}-*.npy"), key=lambda p: p.stat().st_mtime)
        return found[-1] if found else None

    def follow(self, on: bool) -> None:
        """Listen to clicks in the canvas, or stop listening."""
        callbacks = self.workspace.viewer.mouse_drag_callbacks
        if on and self._on_mouse not in callbacks:
            self.workspace.viewer.layers.selection.active = self.workspace.scan_layer
            callbacks.append(self._on_mouse)
        if not on and self._on_mouse in callbacks:
            callbacks.remove(self._on_mouse)

    def show(self, voxel: tuple[int, int, int]) -> None:
        """Show the similarity of the whole scan to one voxel (z, y, x).

        Raises UserError ("no-features").
        """
        cache = self._open()
        values = similarity(cache.array, query_at(cache, voxel))
        self._layer(values, cache).data = values

    def _open(self) -> FeatureCache:
        newest = self.newest()
        if newest is None:
            raise UserError(
                'This scan has no features yet; press "Compute features" first.', code="no-features"
            )
        if self._cache is None or newest != self._opened:
            self._cache, self._opened = FeatureCache.open(newest), newest
        return self._cache

    def _layer(self, values: np.ndarray, cache: FeatureCache) -> Any:
        viewer, scan = self.workspace.viewer, self.session.need_scan()
        layer = layers.find(viewer.layers, layers.SIMILARITY)
        if layer is None:
            layer = layers.similarity_layer(values, scan.geometry, cache.step_vox, cache.origin_vox, scan.id)
            above = self.workspace.scan_layer
            active = viewer.layers.selection.active
            viewer.layers.insert(viewer.layers.index(above) + 1 if above is not None else 0, layer)
            viewer.layers.selection.active = active
        return layer

    def _on_mouse(self, viewer: Any, event: Any) -> Iterator[None]:
        """A click without dragging; a drag still pans the view."""
        moved = False
        yield
        while event.type == "mouse_move":
            moved = True
            yield
        layer = self.workspace.scan_layer
        if moved or layer is None:
            return
        voxel = layers.voxel_at(layer, event.position)
        if voxel is not None:
            guarded(self.session, lambda: self.show(voxel))
