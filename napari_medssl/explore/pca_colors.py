"""The features of the scan on the screen as colours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from medssl.core.features.pca_colors import colors_of
from medssl.core.project.project import Project
from napari.layers import Image

from napari_medssl import layers
from napari_medssl.explore.similarity import Similar
from napari_medssl.latest_only_worker import Background

COLORS = "colors"
"""Role of the layer."""
NAME = "feature colours"


class FeatureColors:
    """A colour layer over the scan while it is switched on; it follows the scan and the chosen weights."""

    def __init__(self, similar: Similar) -> None:
        self._similar, self.workspace, self.session = similar, similar.workspace, similar.session
        self.on = False
        self.background = Background(self.session)
        self._shown: tuple[Any, ...] = ()
        self.session.scan_changed.connect(self.refresh)
        self.session.project_changed.connect(self._forget)
        self.session.runs_changed.connect(self._computed_anew)

    @property
    def layer(self) -> Image | None:
        """The colours, where there are any."""
        return layers.find(self.workspace.viewer.layers, COLORS)

    def switch(self, on: bool) -> None:
        """Show the colours, or hide them."""
        self.on = on
        self.workspace.uncover(on)
        self.refresh()

    def refresh(self) -> None:
        """Show the colours of what is on the screen now, once they are known."""
        scan, run, project = self.session.scan, self._similar.run, self.session.project
        layer = self.layer
        if not self.on or project is None or scan is None or not self.session.has_features(run):
            self.background.stop()
            if layer is not None:
                layer.visible = False
            return
        if self._shown == (scan, run) and layer is not None:
            layer.visible = True
            return
        if layer is not None:
            layer.visible = False
        self.background.ask(lambda: _colors(project, scan, run), lambda found: self._show(scan, run, found))

    def _show(self, scan_id: str, run: str | None, found: tuple[np.ndarray, tuple[int, int, int]]) -> None:
        if not self.on or (scan_id, run) != (self.session.scan, self._similar.run):
            return
        colors, step_vox = found
        viewer, scan, layer = self.workspace.viewer, self.session.need_scan(), self.layer
        place = layers.coarse_placement(scan.geometry, step_vox)
        if layer is None:
            layer = Image(
                colors,
                rgb=True,
                name=NAME,
                metadata=layers.metadata(COLORS, scan.geometry, scan=scan.id),
                opacity=0.55,
                **place,
            )
            layer.locked = True
            below = self.workspace.scan_layer
            layers.add(viewer, layer, viewer.layers.index(below) + 1 if below is not None else 0)
        else:
            layer.data = colors
            layer.scale, layer.translate = place["scale"], place["translate"]
            layer.metadata = layers.metadata(COLORS, scan.geometry, scan=scan.id)
        layer.visible = True
        self._shown = (scan_id, run)

    def _computed_anew(self) -> None:
        """Features of this scan may be others now; whether they are, the cache on disk knows."""
        if not self.session.job.running:
            self._forget()

    def _forget(self) -> None:
        self._shown = ()
        self.refresh()


def _colors(project: Project, scan: str, run: str) -> Iterator[tuple[np.ndarray, tuple[int, int, int]]]:
    yield colors_of(project, scan, run)
