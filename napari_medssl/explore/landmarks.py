"""Landmarks in the viewer: set at the last click, found in all scans beside, kept in the project."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medssl.core.errors import UserError
from medssl.core.features.landmarks import (
    Landmark,
    LandmarkMatch,
    Landmarks,
    collect,
    propagate,
    read_landmarks,
    write_landmark_table,
    write_landmarks,
)
from medssl.core.features.similarity import has_features
from medssl.core.project.project import Project
from psygnal import Signal

from napari_medssl.error_handling import guarded
from napari_medssl.explore.point_layers import LANDMARKS, Mark, show_marks
from napari_medssl.explore.similarity import Similar
from napari_medssl.latest_only_worker import Background


class Marks:
    """The open project's landmarks."""

    changed = Signal()
    """Others are set, or more were found."""

    def __init__(self, similar: Similar) -> None:
        self.similar, self.workspace, self.session = similar, similar.workspace, similar.session
        self.known = Landmarks()
        self.background = Background(self.session)
        self.fraction = 1.0
        """How many of the scans have been searched."""
        self._asked: tuple[Any, ...] = ()
        self.session.project_changed.connect(self._read)
        self.session.scan_changed.connect(self.show)

    def _read(self) -> None:
        self.background.stop()
        self.known, self._asked, self.fraction = Landmarks(), (), 1.0
        project = self.session.project
        if project is not None:
            self.known = guarded(self.session, lambda: read_landmarks(project)) or Landmarks()
        self.changed.emit()

    # --- setting -------------------------------------------------------------------------------------

    def set_here(self, name: str) -> None:
        """Set a landmark at the last place that was clicked in the scan on the screen, and find it elsewhere.

        Raises UserError ("no-points", "bad-name", "disk-full", "not-writable").
        """
        clicked = [each for each in self.similar.points if each.like and each.scan == self.session.scan]
        if not clicked:
            raise UserError("Click the place in the scan first, then set the landmark.", code="no-points")
        self._change(self.known.with_point(Landmark(name, clicked[-1].scan, clicked[-1].voxel_zyx)))

    def remove(self, name: str) -> None:
        """Forget a landmark in all scans."""
        self._change(self.known.without(name))

    def export(self, path: Path) -> None:
        """Write all places as CSV."""
        write_landmark_table(path, self.session.need_project(), self.known)

    def _change(self, known: Landmarks) -> None:
        write_landmarks(self.session.need_project(), known)
        self.known = known
        self.show()
        self.find()

    # --- finding -------------------------------------------------------------------------------------

    def find(self) -> None:
        """Look for all landmarks in all scans, unless that is what was done or is being done."""
        project, run = self.session.project, self.similar.run
        if project is None or run is None or not self.known.points:
            return
        able = [scan for scan in project.scans if has_features(project, scan, run)]
        wanted = (run, self.known.points, tuple(able))
        homes = {each.scan for each in self.known.points}
        if wanted == self._asked or not homes <= set(able):
            return
        self._asked, known, matches = wanted, self.known, []
        self.fraction = 0.0

        def take(result: tuple[str, float, list[LandmarkMatch]]) -> None:
            weights, self.fraction, of_scan = result
            matches.extend(of_scan)
            self.known = collect(known, run, weights, matches)
            if any(each.scan == self.session.scan for each in of_scan):
                self.show()
            self.changed.emit()

        def end() -> None:
            self.fraction = 1.0
            write_landmarks(project, self.known)
            self.changed.emit()

        self.background.ask(lambda: _found(project, run, known, len(able)), take, end)

    # --- showing -------------------------------------------------------------------------------------

    def show(self) -> None:
        """Draw the landmarks of the scan on the screen, found ones with their confidence."""
        if self.session.scan is not None:
            marks = [_mark(each) for each in self.known.in_scan(self.session.scan)]
            show_marks(self.workspace, LANDMARKS, marks)
        self.changed.emit()

    def go_to(self, name: str) -> None:
        """Show the slice of the scan on the screen that holds a landmark."""
        place = self.workspace.slice_on_screen()
        axis = place[0] if place else 0
        for each in self.known.in_scan(self.session.need_scan().id):
            if each.name == name:
                self.workspace.go_to(axis, each.voxel_zyx[axis])


def _mark(place: Landmark | LandmarkMatch) -> Mark:
    if isinstance(place, LandmarkMatch):
        return Mark(place.voxel_zyx, "found", f"{place.name} {place.confidence:.2f}")
    return Mark(place.voxel_zyx, "set", place.name)


def _found(
    project: Project, run: str, known: Landmarks, scans: int
) -> Iterator[tuple[str, float, list[LandmarkMatch]]]:
    """(fingerprint of the weights, fraction done, places) of one scan after the other."""
    weights = project.run(run).weights_sha256
    for number, (_, matches) in enumerate(propagate(project, run, known), 1):
        yield weights, number / max(scans, number), matches
