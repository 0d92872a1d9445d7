"""Named places that are set in one scan and found in all others.

A landmark is found where a scan's features are most like those of the places where it was set. To tell a
place that was found from one that was merely the best of a bad lot, it is looked for again the other way
round: from there back in the scan where it was set. How far off that lands is the forward-backward error
(Kalal et al., "Forward-backward error: automatic detection of tracking failures", ICPR 2010).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medssl.core.errors import UserError
from medssl.core.features.retrieval import Point, Query, best_match, neighbourhood_descriptor, query_of
from medssl.core.features.similarity import FeatureCache, has_features, open_features
from medssl.core.files import read_json, write_json, write_whole
from medssl.core.jobs import from_json
from medssl.core.project.project import Project

FILE = "landmarks.json"
FORMAT_VERSION = 1
LONGEST_NAME = 60
HALF_MM = 10.0
"""Coming back so far off halves the confidence."""


@dataclass(frozen=True)
class Landmark:
    """A place that a person set."""

    name: str
    scan: str
    voxel_zyx: tuple[int, int, int]


@dataclass(frozen=True)
class LandmarkMatch:
    """Where a landmark is in another scan, as the features have it.

    score: cosine, -1..1; agreement_mm: how far the way back ends from where the landmark was set.
    """

    name: str
    scan: str
    voxel_zyx: tuple[int, int, int]
    score: float
    agreement_mm: float

    @property
    def confidence(self) -> float:
        """0..1: the score, less the farther off the way back ends. It sorts places, it is no probability."""
        return max(self.score, 0.0) * 0.5 ** (self.agreement_mm / HALF_MM)


@dataclass(frozen=True)
class Landmarks:
    """All of a project's landmarks; run and weights say which features the found places come from."""

    points: tuple[Landmark, ...] = ()
    matches: tuple[LandmarkMatch, ...] = ()
    run: str = ""
    weights: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """In the order in which they were first set."""
        return tuple(dict.fromkeys(each.name for each in self.points))

    def with_point(self, place: Landmark) -> Landmarks:
        """Set a landmark, also where it was found or set before in that scan; what was found elsewhere goes.

        Raises UserError ("bad-name").
        """
        name = place.name.strip()
        if not name or len(name) > LONGEST_NAME or not name.isprintable():
            raise UserError(
                f"A landmark needs a name of 1 to {LONGEST_NAME} characters; type one.", code="bad-name"
            )
        place = replace(place, name=name)
        others = tuple(x for x in self.points if (x.name, x.scan) != (place.name, place.scan))
        return self._with((*others, place), place.name)

    def without(self, name: str) -> Landmarks:
        """Forget a landmark in all scans."""
        return self._with(tuple(each for each in self.points if each.name != name), name)

    def _with(self, points: tuple[Landmark, ...], changed: str) -> Landmarks:
        return replace(
            self, points=points, matches=tuple(each for each in self.matches if each.name != changed)
        )

    def in_scan(self, scan: str) -> list[Landmark | LandmarkMatch]:
        """Every landmark's place in a scan, where it has one; what was set wins."""
        places: dict[str, Landmark | LandmarkMatch] = {
            each.name: each for each in self.matches if each.scan == scan
        }
        places.update({each.name: each for each in self.points if each.scan == scan})
        return [places[name] for name in self.names if name in places]


# --- finding ----------------------------------------------------------------------------------------


def propagate(project: Project, run: str, known: Landmarks) -> Iterator[tuple[str, list[LandmarkMatch]]]:
    """Find all landmarks in every scan that has features: (scan, places), one scan after the other.

    A landmark that was set in several scans is looked for by all of these places at once.

    Raises UserError ("no-features") where a scan in which one was set has none.
    """
    origins = {each.scan: open_features(project, each.scan, run) for each in known.points}
    set_in = {name: [each for each in known.points if each.name == name] for name in known.names}
    queries = {
        name: query_of(project, run, [Point(each.scan, each.voxel_zyx) for each in places])
        for name, places in set_in.items()
    }
    for scan in project.scans:
        if not has_features(project, scan, run):
            continue
        try:
            cache = open_features(project, scan, run)
        except UserError:
            continue  # outdated: as good as none
        matches = []
        for name, places in set_in.items():
            if scan in {each.scan for each in places}:
                continue
            best = best_match(cache, queries[name])
            back = [way_back_mm(cache, best.voxel_zyx, origins[each.scan], each.voxel_zyx) for each in places]
            agreement_mm = round(float(np.mean(back)), 2)
            matches.append(LandmarkMatch(name, scan, best.voxel_zyx, round(best.score, 4), agreement_mm))
        yield scan, matches


def way_back_mm(
    there: FeatureCache, matches: Sequence[int], here: FeatureCache, start: Sequence[int]
) -> float:
    """Looking for `matches` back in the scan it was looked for from: mm from `start` to where that ends."""
    back = best_match(here, Query(neighbourhood_descriptor(there, matches)))
    start_cell = here.voxel_of(here.cell_of(start))  # cells know nothing finer
    return float(np.linalg.norm((np.array(back.voxel_zyx) - start_cell) * here.spacing_mm))


# --- keeping ----------------------------------------------------------------------------------------


def read_landmarks(project: Project) -> Landmarks:
    """The project's landmarks; places found by weights that have changed since are left out.

    Raises UserError ("unreadable").
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
        points = tuple(from_json(Landmark, each, "a landmark") for each in value["set"])
        matches = tuple(from_json(LandmarkMatch, each, "a found place") for each in value["found"])
        run, weights = str(value["run"]), str(value["weights"])
    except (KeyError, TypeError, ValueError, UserError) as error:
        raise UserError(
            f"{path} is damaged ({error}); restore it from a backup or delete it and set the landmarks anew.",
            code="unreadable",
        ) from error
    known = {each.id: each.geometry.shape_zyx for each in project.scans.values()}
    points = tuple(each for each in points if _inside(each, known))
    names = {each.name for each in points}
    matches = tuple(each for each in matches if _inside(each, known) and each.name in names)
    if not matches or weights != _weights(project, run):
        return Landmarks(points)
    return Landmarks(points, matches, run, weights)


def write_landmarks(project: Project, landmarks: Landmarks) -> None:
    """Keep the landmarks in the project, whole or not at all.

    Raises UserError ("disk-full", "not-writable").
    """
    value: dict[str, Any] = {
        "version": FORMAT_VERSION,
        "run": landmarks.run,
        "weights": landmarks.weights,
        "set": [asdict(each) for each in landmarks.points],
        "found": [asdict(each) for each in landmarks.matches],
    }
    write_json(project.root / FILE, value)


def write_landmark_table(path: Path, project: Project, landmarks: Landmarks) -> None:
    """A CSV row for each scan and landmark, whole or not at all.

    x_mm, y_mm and z_mm are patient coordinates of the source (towards right, anterior and superior, as NIfTI
    counts them). A place that a person set has a confidence of 1.

    Raises UserError ("nothing-yet", "disk-full", "not-writable").
    """
    if not landmarks.points:
        raise UserError("No landmark is set yet, so there is nothing to export.", code="nothing-yet")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("scan", "name", "x_mm", "y_mm", "z_mm", "confidence"))
    for scan in project.scans.values():
        for place in landmarks.in_scan(scan.id):
            x, y, z = (scan.geometry.canonical_affine @ (*place.voxel_zyx, 1))[:3]
            sure = place.confidence if isinstance(place, LandmarkMatch) else 1.0
            writer.writerow((scan.id, place.name, f"{x:.2f}", f"{y:.2f}", f"{z:.2f}", f"{sure:.3f}"))
    write_whole(path, lambda file: file.write(text.getvalue().encode("utf-8")))


def _weights(project: Project, run: str) -> str:
    try:
        return project.run(run).weights_sha256
    except UserError:
        return ""  # the run is gone


def _inside(place: Landmark | LandmarkMatch, shapes: dict[str, tuple[int, int, int]]) -> bool:
    """Whether a place lies in a scan that the project has."""
    shape = shapes.get(place.scan)
    return shape is not None and all(0 <= at < n for at, n in zip(place.voxel_zyx, shape, strict=True))


def collect(known: Landmarks, run: str, weights: str, matches: Iterable[LandmarkMatch]) -> Landmarks:
    """The landmarks with what was found anew."""
    return replace(known, matches=tuple(matches), run=run, weights=weights)
