"""Clicks that ask "where else?": in the scan on the screen as a map, in all other scans the best match."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from medssl.core.errors import UserError
from medssl.core.features.retrieval import Match, Point, best_match, query_of, search
from medssl.core.features.similarity import has_features, open_features, similarity
from medssl.core.project.project import Project
from psygnal import Signal

from napari_medssl import layers
from napari_medssl.error_handling import guarded
from napari_medssl.explore.point_layers import MATCHES, Mark, hide_marks, show_marks
from napari_medssl.latest_only_worker import Background
from napari_medssl.workspace import Workspace

CLICK_PIXELS = 4
"""How far a hand may tremble between press and release."""
TOO, NOT = "Shift", "Control"
"""Keys held during a click: this place too; not this place. napari takes Alt for zooming."""


@dataclass(frozen=True)
class Map:
    """Similarity of one scan: float32 (Z', Y', X'), the voxels of a cell, and the best match."""

    values: np.ndarray
    step_vox: tuple[int, int, int]
    best: Match


class Similar:
    """The places that were clicked and what is like them, while it is switched on."""

    changed = Signal()
    """Other places were clicked, or a scan's best match came in."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.session = workspace, workspace.session
        self.run: str | None = None
        """The run whose features are looked at; see `use`."""
        self.on = False
        self.points: tuple[Point, ...] = ()
        self.matches: dict[str, Match] = {}
        """By scan; they come in one after the other."""
        self.coming = ""
        """The scan whose features are being computed: a click in it is answered when they are there."""
        self.background = Background(self.session)
        self._asked: tuple[str | None, tuple[Point, ...]] = (None, ())
        """Scan and points of the last map that was looked for."""
        self.session.project_changed.connect(self.forget)
        self.session.scan_changed.connect(self._look_here)

    def use(self, run: str | None) -> None:
        """Look at the features of another run; what was found with the last one is forgotten."""
        if run != self.run:
            self.run = run
            self.forget()

    def forget(self) -> None:
        """Begin without any place."""
        self.background.stop()
        self.points, self.matches = (), {}
        self._hide()
        self.changed.emit()

    def follow(self, on: bool) -> None:
        """Listen to clicks in the canvas, with a free view of the scan, or stop listening."""
        self.on = on
        viewer = self.workspace.viewer
        if on and self._on_mouse not in viewer.mouse_drag_callbacks:
            viewer.layers.selection.active = self.workspace.scan_layer
            viewer.mouse_drag_callbacks.append(self._on_mouse)
        if not on:
            self.close()
        self.workspace.uncover(on)
        if on:
            self._look_here()
        else:
            self._hide()

    def close(self) -> None:
        """Let the viewer go."""
        self.background.stop()
        if self._on_mouse in self.workspace.viewer.mouse_drag_callbacks:
            self.workspace.viewer.mouse_drag_callbacks.remove(self._on_mouse)

    # --- asking --------------------------------------------------------------------------------------

    def click(self, voxel: tuple[int, int, int], keys: Sequence[str] = ()) -> None:
        """Look for a voxel (z, y, x) of the scan on the screen; with TOO or NOT, for it beside the others.

        Raises UserError ("no-scan", "no-features", "no-points").
        """
        point = Point(self.session.need_scan().id, voxel, like=NOT not in keys)
        adds = TOO in keys or NOT in keys
        points = (*self.points, point) if adds else (point,)
        if not any(each.like for each in points):
            raise UserError("Click a place that is meant before one that is not.", code="no-points")
        if self.coming != point.scan:
            self._need_features()
        self.background.stop()
        self.points, self.matches = points, {}
        self.changed.emit()
        self._look_here()

    def _need_features(self) -> str:
        if self.run is None or not self.session.has_features(self.run):
            raise UserError(
                'This scan has no features yet; press "Compute features" first.', code="no-features"
            )
        return self.run

    def look_again(self) -> None:
        """Features may have come: show the map of the scan on the screen, unless that has been asked for."""
        if self.on and self._asked != (self.session.scan, self.points):
            self._look_here()

    def _look_here(self) -> None:
        """Show the map of the scan on the screen, where features of it and of all clicks are there."""
        project, scan, run, points = self.session.project, self.session.scan, self.run, self.points
        if not self.on or not points or project is None or scan is None or run is None:
            self._hide()
            return
        if not all(has_features(project, each, run) for each in {scan, *(point.scan for point in points)}):
            self._hide()
            return
        self._asked = (scan, points)
        others = [each for each in project.scans if each != scan and each not in self.matches]
        self.background.ask(lambda: look(project, run, points, scan, others), self._take)

    def _take(self, found: Map | Match) -> None:
        match = found.best if isinstance(found, Map) else found
        self.matches[match.scan] = match
        if isinstance(found, Map) and match.scan == self.session.scan:
            self._show(found)
        self.changed.emit()

    # --- showing -------------------------------------------------------------------------------------

    def _show(self, found: Map) -> None:
        viewer, scan = self.workspace.viewer, self.session.need_scan()
        layer = layers.find(viewer.layers, layers.SIMILARITY)
        if layer is not None and layer.data.shape == found.values.shape:
            layer.data = found.values
            layer.visible = True
        else:
            if layer is not None:
                viewer.layers.remove(layer)
            layer = layers.similarity_layer(found.values, scan.geometry, found.step_vox, scan.id)
            above = self.workspace.scan_layer
            layers.add(viewer, layer, viewer.layers.index(above) + 1 if above is not None else 0)
        clicked = [
            Mark(each.voxel_zyx, "like" if each.like else "unlike")
            for each in self.points
            if each.scan == scan.id
        ]
        best = [] if clicked else [Mark(found.best.voxel_zyx, "match", f"{found.best.score:.2f}")]
        show_marks(self.workspace, MATCHES, [*clicked, *best])

    def _hide(self) -> None:
        similar = layers.find(self.workspace.viewer.layers, layers.SIMILARITY)
        if similar is not None:
            similar.visible = False
        hide_marks(self.workspace, MATCHES)

    def go_to(self, scan: str) -> None:
        """Show the best match of a scan, on the slice that holds it."""
        match, place = self.matches[scan], self.workspace.slice_on_screen()
        axis = place[0] if place else 0
        self.workspace.opening.open(scan, lambda: self.workspace.go_to(axis, match.voxel_zyx[axis]))

    def _on_mouse(self, viewer: Any, event: Any) -> Iterator[None]:
        """A click that stays where it is; a drag still moves the view."""
        start = np.asarray(event.pos)
        farthest, keys = 0.0, tuple(event.modifiers)
        yield
        while event.type == "mouse_move":
            farthest = max(farthest, float(np.linalg.norm(np.asarray(event.pos) - start)))
            yield
        layer = self.workspace.scan_layer
        if farthest > CLICK_PIXELS or layer is None or viewer.dims.ndisplay != 2:
            return
        voxel = layers.voxel_at(layer, event.position)
        if voxel is not None:
            guarded(self.session, lambda: self.click(voxel, keys))


def look(
    project: Project, run: str, points: Sequence[Point], scan: str, others: Sequence[str]
) -> Iterator[Map | Match]:
    """The map of `scan` first, then the best match of each of the others."""
    query = query_of(project, run, points)
    cache = open_features(project, scan, run)
    yield Map(similarity(cache, query.centre), cache.step_vox, best_match(cache, query))
    yield from search(project, run, query, others)
