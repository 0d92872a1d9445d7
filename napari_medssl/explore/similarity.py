"""Similarity to clicked voxels: a map of the scan on the screen, and the best match in every other scan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from medssl.core.errors import UserError
from medssl.core.features.retrieval import Match, Point, best_match, query_of, search
from medssl.core.features.similarity import has_features, open_features, similarity
from medssl.core.project.project import Project
from napari.components import ViewerModel
from psygnal import Signal

from napari_medssl import layers, navigation
from napari_medssl.error_handling import catch_errors
from napari_medssl.explore.point_layers import MATCHES, PointMarker, hide_points, show_points
from napari_medssl.latest_only_worker import LatestOnlyWorker
from napari_medssl.workspace import Workspace

CLICK_PIXELS = 4
"""Largest movement between press and release that still counts as a click."""
ADD_KEY, EXCLUDE_KEY = "Shift", "Control"
"""Modifiers of a click: add a positive or a negative example. napari uses Alt for zooming."""


@dataclass(frozen=True)
class SimilarityMap:
    """Similarity of one scan.

    values: float32 (Z', Y', X') on the feature grid, -1 to 1. step_vox: voxels per cell along z, y, x. best:
    the cell of highest similarity.
    """

    values: np.ndarray
    step_vox: tuple[int, int, int]
    best: Match


class SimilaritySearch:
    """The clicked points and the voxels similar to them, while it is active."""

    changed = Signal()
    """Points or matches have changed."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.session = workspace, workspace.session
        self.run: str | None = None
        """The run whose features are compared."""
        self.on = False
        self.points: tuple[Point, ...] = ()
        self.matches: dict[str, Match] = {}
        """Best match by scan."""
        self.pending_scan = ""
        """The scan whose features are being computed: a click in it is answered afterwards."""
        self.background = LatestOnlyWorker(self.session)
        self._last_query: tuple[str | None, tuple[Point, ...]] = (None, ())
        """Scan and points of the last map."""
        for signal in (self.session.project_changed, self.session.scan_removed):
            signal.connect(lambda *about: self.clear())
        self.session.scan_changed.connect(self._search)
        self.session.job_changed.connect(self._on_job)

    def set_run(self, run: str | None) -> None:
        """Choose the run whose features are compared; other features clear the points."""
        if run != self.run:
            self.run = run
            self.clear()

    def clear(self) -> None:
        """Remove all points and matches."""
        self.background.stop()
        self.points, self.matches = (), {}
        self._hide()
        self.changed.emit()

    def set_active(self, on: bool) -> None:
        """Follow clicks in the canvas and hide the layers that cover the scan, or stop doing so."""
        self.on = on
        viewer = self.workspace.viewer
        if on and self._on_mouse not in viewer.mouse_drag_callbacks:
            viewer.layers.selection.active = self.workspace.scan_layer
            viewer.mouse_drag_callbacks.append(self._on_mouse)
        if not on:
            self.close()
        self.workspace.hide_overlays(on)
        if on:
            self._search()
        else:
            self._hide()

    def close(self) -> None:
        """Disconnect from the viewer."""
        self.background.stop()
        if self._on_mouse in self.workspace.viewer.mouse_drag_callbacks:
            self.workspace.viewer.mouse_drag_callbacks.remove(self._on_mouse)

    # --- asking --------------------------------------------------------------------------------------

    def click(self, voxel: tuple[int, int, int], keys: Sequence[str] = ()) -> None:
        """Search for a voxel of the scan on the screen.

        Args:
            voxel: (z, y, x).
            keys: Modifier keys. With ADD_KEY the voxel is added to the query, with EXCLUDE_KEY as a negative
                example; otherwise it replaces the query.

        Raises:
            UserError: "no-scan", "no-features", or "no-points" if a negative example comes first.
        """
        point = Point(self.session.need_scan().id, voxel, like=EXCLUDE_KEY not in keys)
        extends = ADD_KEY in keys or EXCLUDE_KEY in keys
        points = (*self.points, point) if extends else (point,)
        if not any(example.like for example in points):
            raise UserError("Click a positive example before a negative one.", code="no-points")
        if self.pending_scan != point.scan:
            self._need_features()
        self.background.stop()
        self.points, self.matches = points, {}
        self.changed.emit()
        self._search()

    def _need_features(self) -> str:
        if self.run is None or not self.session.has_features(self.run):
            raise UserError(
                'This scan has no features yet; press "Compute features" first.', code="no-features"
            )
        return self.run

    def refresh(self) -> None:
        """Show the map of the scan on the screen if its features have become available."""
        if self.on and self._last_query != (self.session.scan, self.points):
            self._search()

    def _on_job(self) -> None:
        """Search the scans whose features have just been computed."""
        if self.session.job.kind == "features" and not self.session.job.running:
            self._search()

    def _search(self) -> None:
        """Compute the map of the scan on the screen if it and all clicked scans have features."""
        project, scan, run, points = self.session.project, self.session.scan, self.run, self.points
        if not self.on or not points or project is None or scan is None or run is None:
            self._hide()
            return
        if not all(has_features(project, other, run) for other in {scan, *(point.scan for point in points)}):
            self._hide()
            return
        self._last_query = (scan, points)
        others = [other for other in project.scans if other != scan and other not in self.matches]
        self.background.submit(lambda: search_scans(project, run, points, scan, others), self._on_match)

    def _on_match(self, result: SimilarityMap | Match) -> None:
        match = result.best if isinstance(result, SimilarityMap) else result
        self.matches[match.scan] = match
        if isinstance(result, SimilarityMap) and match.scan == self.session.scan:
            self._show(result)
        self.changed.emit()

    # --- showing -------------------------------------------------------------------------------------

    def _show(self, result: SimilarityMap) -> None:
        viewer, scan = self.workspace.viewer, self.session.need_scan()
        layer = layers.find(viewer.layers, layers.SIMILARITY)
        if layer is not None and layer.data.shape == result.values.shape:
            layer.data = result.values
            layer.visible = True
        else:
            if layer is not None:
                viewer.layers.remove(layer)
            layer = layers.similarity_layer(result.values, scan.geometry, result.step_vox, scan.id)
            layers.add(viewer, layer, layers.above_scan(viewer, scan.id))
        clicked = [
            PointMarker(point.voxel_zyx, "positive" if point.like else "negative")
            for point in self.points
            if point.scan == scan.id
        ]
        best = [] if clicked else [PointMarker(result.best.voxel_zyx, "match", f"{result.best.score:.2f}")]
        show_points(self.workspace, MATCHES, [*clicked, *best])

    def _hide(self) -> None:
        layer = layers.find(self.workspace.viewer.layers, layers.SIMILARITY)
        if layer is not None:
            layer.visible = False
        hide_points(self.workspace, MATCHES)

    def go_to(self, scan: str) -> None:
        """Open a scan at the slice of its best match."""
        match, position = self.matches[scan], self.workspace.slice_on_screen()
        axis = position[0] if position else 0
        self.workspace.scan_loader.open(scan, lambda: self.workspace.go_to(axis, match.voxel_zyx[axis]))

    def _on_mouse(self, viewer: ViewerModel, event: Any) -> Iterator[None]:
        """A click without movement; a drag still moves the view."""
        start = np.asarray(event.pos)
        distance, keys = 0.0, tuple(event.modifiers)
        yield
        while event.type == "mouse_move":
            distance = max(distance, float(np.linalg.norm(np.asarray(event.pos) - start)))
            yield
        layer = self.workspace.scan_layer
        if distance > CLICK_PIXELS or layer is None or viewer.dims.ndisplay != 2:
            return
        voxel = navigation.voxel_at(layer, event.position)
        if voxel is not None:
            self.session.messages.attempt()
            catch_errors(self.session, lambda: self.click(voxel, keys), self)


def search_scans(
    project: Project, run: str, points: Sequence[Point], scan: str, others: Sequence[str]
) -> Iterator[SimilarityMap | Match]:
    """Compute the map of one scan, then the best match of each of the others.

    Args:
        project: The project.
        run: Id of the run whose features are compared.
        points: Positive and negative examples.
        scan: Id of the scan to map.
        others: Ids of the scans to search.

    Yields:
        The map of `scan`, then one match per other scan.
    """
    query = query_of(project, run, points)
    cache = open_features(project, scan, run)
    yield SimilarityMap(similarity(cache, query.centre), cache.step_vox, best_match(cache, query))
    yield from search(project, run, query, others)
