"""Named landmarks that are set in one scan and detected in all others.

A landmark is detected where the features of a scan are most similar to those of the points where it was set.
The forward-backward error (Kalal et al., "Forward-backward error: automatic detection of tracking failures",
ICPR 2010) tells correct matches from wrong ones: the match is searched for in the scan where the landmark was
set, and the distance to the set point is measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medssl.core.errors import UserError
from medssl.core.features.retrieval import Point, Query, best_match, neighbourhood_descriptor, query_of
from medssl.core.features.similarity import FeatureCache, has_features, open_features
from medssl.core.files import write_whole
from medssl.core.jobs import from_json
from medssl.core.json_files import read_json, write_json
from medssl.core.project.project import Project
from medssl.core.tables import csv_bytes

FILE = "landmarks.json"
FORMAT_VERSION = 1
MAX_NAME_LENGTH = 60
HALF_MM = 10.0
"""Forward-backward error that halves the confidence."""


@dataclass(frozen=True)
class Landmark:
    """A point that a person set."""

    name: str
    scan: str
    voxel_zyx: tuple[int, int, int]


@dataclass(frozen=True)
class LandmarkMatch:
    """A landmark detected in another scan.

    Attributes:
        score: Mean cosine similarity of the neighbourhoods, -1..1.
        agreement_mm: Forward-backward error, mean over the points where the landmark was set.
    """

    name: str
    scan: str
    voxel_zyx: tuple[int, int, int]
    score: float
    agreement_mm: float

    @property
    def confidence(self) -> float:
        """Score in 0..1 that decreases with the forward-backward error; a ranking, not a probability."""
        return max(self.score, 0.0) * 0.5 ** (self.agreement_mm / HALF_MM)


@dataclass(frozen=True)
class Landmarks:
    """All landmarks of a project; `run` and `weights` identify the features from which the matches come."""

    points: tuple[Landmark, ...] = ()
    matches: tuple[LandmarkMatch, ...] = ()
    run: str = ""
    weights: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the landmarks in the order in which they were first set."""
        return tuple(dict.fromkeys(point.name for point in self.points))

    def with_point(self, point: Landmark) -> Landmarks:
        """Set or move a landmark in a scan; its matches in other scans are removed.

        Raises:
            UserError: "bad-name".
        """
        name = point.name.strip()
        if not name or len(name) > MAX_NAME_LENGTH or not name.isprintable():
            raise UserError(
                f"A landmark needs a name of 1 to {MAX_NAME_LENGTH} characters; type one.", code="bad-name"
            )
        point = replace(point, name=name)
        other_points = tuple(x for x in self.points if (x.name, x.scan) != (point.name, point.scan))
        return self._with((*other_points, point), point.name)

    def without(self, name: str) -> Landmarks:
        """Remove a landmark from all scans."""
        return self._with(tuple(point for point in self.points if point.name != name), name)

    def _with(self, points: tuple[Landmark, ...], changed: str) -> Landmarks:
        return replace(
            self, points=points, matches=tuple(match for match in self.matches if match.name != changed)
        )

    def in_scan(self, scan: str) -> list[Landmark | LandmarkMatch]:
        """The landmarks of a scan; points that were set replace matches."""
        by_name: dict[str, Landmark | LandmarkMatch] = {
            match.name: match for match in self.matches if match.scan == scan
        }
        by_name.update({point.name: point for point in self.points if point.scan == scan})
        return [by_name[name] for name in self.names if name in by_name]


# --- detection --------------------------------------------------------------------------------------


def propagate(project: Project, run: str, landmarks: Landmarks) -> Iterator[tuple[str, list[LandmarkMatch]]]:
    """Detect all landmarks in every scan that has features, one scan after the other.

    The points of a landmark that was set in several scans are combined into one query.

    Yields:
        Scan id and the matches in this scan.

    Raises:
        UserError: "no-features" if a scan in which a landmark was set has none.
    """
    caches = {point.scan: open_features(project, point.scan, run) for point in landmarks.points}
    points_by_name = {
        name: [point for point in landmarks.points if point.name == name] for name in landmarks.names
    }
    queries = {
        name: query_of(project, run, [Point(point.scan, point.voxel_zyx) for point in points])
        for name, points in points_by_name.items()
    }
    for scan in project.scans:
        if not has_features(project, scan, run):
            continue
        try:
            cache = open_features(project, scan, run)
        except UserError:
            continue  # outdated
        matches = []
        for name, points in points_by_name.items():
            if scan in {point.scan for point in points}:
                continue
            best = best_match(cache, queries[name])
            errors_mm = [
                forward_backward_error_mm(cache, best.voxel_zyx, caches[point.scan], point.voxel_zyx)
                for point in points
            ]
            agreement_mm = round(float(np.mean(errors_mm)), 2)
            matches.append(LandmarkMatch(name, scan, best.voxel_zyx, round(best.score, 4), agreement_mm))
        yield scan, matches


def forward_backward_error_mm(
    target: FeatureCache, match_zyx: Sequence[int], source: FeatureCache, start_zyx: Sequence[int]
) -> float:
    """Forward-backward error of a match.

    Args:
        target: Features of the scan in which the match lies.
        match_zyx: Voxel of the match.
        source: Features of the scan in which the search started.
        start_zyx: Voxel at which the search started.

    Returns:
        Distance in mm from `start_zyx` to the best match of `match_zyx` in `source`.
    """
    backward = best_match(source, Query(neighbourhood_descriptor(target, match_zyx)))
    start_cell = source.voxel_of(source.cell_of(start_zyx))  # matches have the resolution of cells
    return float(np.linalg.norm((np.array(backward.voxel_zyx) - start_cell) * source.spacing_mm))


# --- files ------------------------------------------------------------------------------------------


def read_landmarks(project: Project) -> Landmarks:
    """Read the landmarks of a project, without matches of weights that have changed since.

    Raises:
        UserError: "unreadable".
    """
    path = project.root / FILE
    try:
        value = read_json(path)
    except UserError as error:
        if error.code == "missing":
            return Landmarks()
        raise
    try:
        if value["version"] != FORMAT_VERSION:
            raise ValueError(f"version {value['version']!r}")
        points = tuple(from_json(Landmark, fields, "a landmark") for fields in value["set"])
        matches = tuple(from_json(LandmarkMatch, fields, "a match") for fields in value["found"])
        run, weights = str(value["run"]), str(value["weights"])
    except (KeyError, TypeError, ValueError, UserError) as error:
        raise UserError(
            f"{path} is damaged ({error}); restore it from a backup, or delete it and set new landmarks.",
            code="unreadable",
        ) from error
    shapes = {scan.id: scan.geometry.shape_zyx for scan in project.scans.values()}
    points = tuple(point for point in points if _inside(point, shapes))
    names = {point.name for point in points}
    matches = tuple(match for match in matches if _inside(match, shapes) and match.name in names)
    if not matches or weights != _weights(project, run):
        return Landmarks(points)
    return Landmarks(points, matches, run, weights)


def write_landmarks(project: Project, landmarks: Landmarks) -> None:
    """Save the landmarks in the project, atomically.

    Raises:
        UserError: "unreadable" if the project has a damaged file, which is kept; "disk-full", "not-writable",
            "read-only".
    """
    project.need_writable()
    read_landmarks(project)
    value: dict[str, Any] = {
        "version": FORMAT_VERSION,
        "run": landmarks.run,
        "weights": landmarks.weights,
        "set": [asdict(point) for point in landmarks.points],
        "found": [asdict(match) for match in landmarks.matches],
    }
    write_json(project.root / FILE, value)


def write_landmark_table(path: Path, project: Project, landmarks: Landmarks) -> None:
    """Write a CSV table with one row per scan and landmark, atomically.

    x_mm, y_mm and z_mm are patient coordinates of the source, RAS as in NIfTI. A point that a person set has
    a confidence of 1.

    Raises:
        UserError: "nothing-yet", "disk-full", "not-writable".
    """
    if not landmarks.points:
        raise UserError(
            "No landmark is set yet, so there is nothing to export; set one first.", code="nothing-yet"
        )
    rows = []
    for scan in project.scans.values():
        for item in landmarks.in_scan(scan.id):
            x, y, z = (scan.geometry.canonical_affine @ (*item.voxel_zyx, 1))[:3]
            confidence = item.confidence if isinstance(item, LandmarkMatch) else 1.0
            rows.append((scan.title, item.name, f"{x:.2f}", f"{y:.2f}", f"{z:.2f}", f"{confidence:.3f}"))
    content = csv_bytes(("scan", "name", "x_mm", "y_mm", "z_mm", "confidence"), rows)
    write_whole(path, lambda file: file.write(content))


def _weights(project: Project, run: str) -> str:
    try:
        return project.run(run).weights_sha256
    except UserError:
        return ""  # the run was deleted


def _inside(item: Landmark | LandmarkMatch, shapes: dict[str, tuple[int, int, int]]) -> bool:
    """Whether a landmark lies within a scan of the project."""
    shape = shapes.get(item.scan)
    return shape is not None and all(
        0 <= index < length for index, length in zip(item.voxel_zyx, shape, strict=True)
    )


def collect(landmarks: Landmarks, run: str, weights: str, matches: Iterable[LandmarkMatch]) -> Landmarks:
    """A copy of the landmarks with new matches; `weights` is the fingerprint of the run's weights."""
    return replace(landmarks, matches=tuple(matches), run=run, weights=weights)
