"""Landmarks: placed at the last click, propagated to all scans, saved in the project."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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

from napari_medssl.error_handling import catch_errors
from napari_medssl.explore.point_layers import LANDMARKS, PointMarker, show_points
from napari_medssl.explore.similarity import SimilaritySearch
from napari_medssl.latest_only_worker import LatestOnlyWorker


class LandmarkEditor:
    """The landmarks of the open project."""

    changed = Signal()
    """Landmarks were added, removed or propagated."""

    def __init__(self, similar: SimilaritySearch) -> None:
        self.similarity, self.workspace, self.session = similar, similar.workspace, similar.session
        self.landmarks = Landmarks()
        self.background = LatestOnlyWorker(self.session)
        self.fraction = 1.0
        """Fraction of the scans that have been searched."""
        self._request: tuple[object, ...] = ()
        for signal in (self.session.project_changed, self.session.scan_removed):
            signal.connect(lambda *about: self._read())
        self.session.scan_changed.connect(self.show)

    def _read(self) -> None:
        self.background.stop()
        self.landmarks, self._request, self.fraction = Landmarks(), (), 1.0
        project = self.session.project
        if project is not None:
            self.landmarks = catch_errors(self.session, lambda: read_landmarks(project)) or Landmarks()
        self.changed.emit()

    # --- setting -------------------------------------------------------------------------------------

    def set_here(self, name: str) -> None:
        """Place a landmark at the last click in the scan on the screen and propagate it to all other scans.

        Raises:
            UserError: Nothing was clicked ("no-points"), the name is not usable ("bad-name"), or the disk
                refuses ("disk-full", "not-writable").
        """
        clicked = [
            landmark
            for landmark in self.similarity.points
            if landmark.like and landmark.scan == self.session.scan
        ]
        if not clicked:
            raise UserError("Click a voxel in the scan first, then set the landmark.", code="no-points")
        self._change(self.landmarks.with_point(Landmark(name, clicked[-1].scan, clicked[-1].voxel_zyx)))

    def remove(self, name: str) -> None:
        """Delete a landmark from all scans."""
        self._change(self.landmarks.without(name))

    def export(self, path: Path) -> None:
        """Write the positions of all landmarks as CSV."""
        write_landmark_table(path, self.session.need_project(), self.landmarks)

    def _change(self, landmarks: Landmarks) -> None:
        write_landmarks(self.session.need_project(), landmarks)
        self.landmarks = landmarks
        self.show()
        self.find()

    # --- finding -------------------------------------------------------------------------------------

    def find(self) -> None:
        """Propagate all landmarks to all scans with features, unless this is done or running."""
        project, run = self.session.project, self.similarity.run
        if project is None or run is None or not self.landmarks.points:
            return
        searchable = [scan for scan in project.scans if has_features(project, scan, run)]
        request = (run, self.landmarks.points, tuple(searchable))
        sources = {landmark.scan for landmark in self.landmarks.points}
        if request == self._request or not sources <= set(searchable):
            return
        self._request, landmarks, matches = request, self.landmarks, []
        self.fraction = 0.0

        def take(result: tuple[str, float, list[LandmarkMatch]]) -> None:
            weights, self.fraction, of_scan = result
            matches.extend(of_scan)
            self.landmarks = collect(landmarks, run, weights, matches)
            if any(landmark.scan == self.session.scan for landmark in of_scan):
                self.show()
            self.changed.emit()

        def end() -> None:
            self.fraction = 1.0
            if not project.read_only:  # another window owns the file
                write_landmarks(project, self.landmarks)
            self.changed.emit()

        self.background.submit(lambda: _propagated(project, run, landmarks, len(searchable)), take, end)

    # --- showing -------------------------------------------------------------------------------------

    def show(self) -> None:
        """Draw the landmarks of the scan on the screen, propagated ones with their confidence."""
        if self.session.scan is not None:
            markers = [_marker(landmark) for landmark in self.landmarks.in_scan(self.session.scan)]
            show_points(self.workspace, LANDMARKS, markers)
        self.changed.emit()

    def go_to(self, name: str) -> None:
        """Show the slice that contains a landmark."""
        position = self.workspace.slice_on_screen()
        axis = position[0] if position else 0
        for landmark in self.landmarks.in_scan(self.session.need_scan().id):
            if landmark.name == name:
                self.workspace.go_to(axis, landmark.voxel_zyx[axis])


def _marker(landmark: Landmark | LandmarkMatch) -> PointMarker:
    if isinstance(landmark, LandmarkMatch):
        return PointMarker(landmark.voxel_zyx, "propagated", f"{landmark.name} {landmark.confidence:.2f}")
    return PointMarker(landmark.voxel_zyx, "placed", landmark.name)


def _propagated(
    project: Project, run: str, landmarks: Landmarks, scans: int
) -> Iterator[tuple[str, float, list[LandmarkMatch]]]:
    """(fingerprint of the weights, fraction done, matches) of one scan after the other."""
    weights = project.run(run).weights_sha256
    for number, (_, matches) in enumerate(propagate(project, run, landmarks), 1):
        yield weights, number / max(scans, number), matches
