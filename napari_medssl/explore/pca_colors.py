"""The first principal components of the features of the scan on the screen, as colours."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from medssl.core.features.pca_colors import colors_of
from medssl.core.project.project import Project
from napari.layers import Image

from napari_medssl import layers
from napari_medssl.explore.similarity import SimilaritySearch
from napari_medssl.latest_only_worker import LatestOnlyWorker

COLORS = "colors"
"""Role of the layer."""
NAME = "feature colours"


class FeatureColors:
    """A colour layer over the scan while it is on; follows the scan and the chosen weights."""

    def __init__(self, similar: SimilaritySearch) -> None:
        self._similarity, self.workspace, self.session = similar, similar.workspace, similar.session
        self.on = False
        self.background = LatestOnlyWorker(self.session)
        self._shown: tuple[str, str] | None = None
        self.session.scan_changed.connect(self.refresh)
        self.session.project_changed.connect(self._clear)
        self.session.runs_changed.connect(self._on_runs)

    @property
    def layer(self) -> Image | None:
        """The colour layer; None before anything was shown."""
        return layers.find(self.workspace.viewer.layers, COLORS)

    def switch(self, on: bool) -> None:
        """Show or hide the colours."""
        self.on = on
        self.workspace.hide_overlays(on)
        self.refresh()

    def refresh(self) -> None:
        """Show the colours of the scan on the screen; they are computed in a thread if necessary."""
        scan, run, project = self.session.scan, self._similarity.run, self.session.project
        layer = self.layer
        if (
            not self.on
            or project is None
            or scan is None
            or run is None
            or not self.session.has_features(run)
        ):
            self.background.stop()
            if layer is not None:
                layer.visible = False
            return
        if self._shown == (scan, run) and layer is not None:
            layer.visible = True
            return
        if layer is not None:
            layer.visible = False
        self.background.submit(
            lambda: _colors(project, scan, run), lambda result: self._show(scan, run, result)
        )

    def _show(self, scan_id: str, run: str, result: tuple[np.ndarray, tuple[int, int, int]]) -> None:
        if not self.on or (scan_id, run) != (self.session.scan, self._similarity.run):
            return
        colors, step_vox = result
        viewer, scan, layer = self.workspace.viewer, self.session.need_scan(), self.layer
        placement = layers.coarse_placement(scan.geometry, step_vox)
        if layer is None:
            layer = Image(
                colors,
                rgb=True,
                name=NAME,
                metadata=layers.metadata(COLORS, scan.geometry, scan=scan.id),
                opacity=0.55,
                **placement,
            )
            layer.locked = True
            layers.add(viewer, layer, layers.above_scan(viewer, scan.id))
        else:
            layer.data = colors
            layer.scale, layer.translate = placement["scale"], placement["translate"]
            layer.metadata = layers.metadata(COLORS, scan.geometry, scan=scan.id)
        layer.visible = True
        self._shown = (scan_id, run)

    def _on_runs(self) -> None:
        """Features of this scan may have been computed again."""
        if not self.session.job.running:
            self._clear()

    def _clear(self) -> None:
        self._shown = None
        self.refresh()


def _colors(project: Project, scan: str, run: str) -> Iterator[tuple[np.ndarray, tuple[int, int, int]]]:
    yield colors_of(project, scan, run)
