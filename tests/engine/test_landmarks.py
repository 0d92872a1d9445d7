"""Landmarks: set in one scan, found in all, kept whole, and written in the source's millimetres."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from feature_scenes import SPACING, make_project, moved
from medssl.core.errors import UserError
from medssl.core.features.landmarks import (
    FILE,
    Landmark,
    LandmarkMatch,
    Landmarks,
    collect,
    propagate,
    read_landmarks,
    write_landmark_table,
    write_landmarks,
)
from medssl.core.features.similarity import open_features, write_features
from medssl.core.project.project import Project

PLACE = (8, 11, 13)
KNOWN = Landmarks().with_point(Landmark("carina", "scan0", PLACE))


@pytest.fixture
def made(tmp_path: Path) -> tuple[Project, str]:
    return make_project(tmp_path)


def matches_in(project: Project, run: str, known: Landmarks = KNOWN) -> Landmarks:
    places = [place for _, matches in propagate(project, run, known) for place in matches]
    return collect(known, run, project.run(run).weights_sha256, places)


def test_a_landmark_is_found_in_all_other_scans_and_agrees_on_the_way_back(made: tuple[Project, str]) -> None:
    matches = matches_in(*made).matches
    assert {each.scan: each.voxel_zyx for each in matches} == {
        "scan1": moved(PLACE, 2), "scan2": moved(PLACE, 3)
    }  # fmt: skip
    assert all(each.agreement_mm == 0 and each.confidence > 0.8 for each in matches)


def test_a_place_that_does_not_lead_back_is_trusted_less(made: tuple[Project, str]) -> None:
    project, run = made
    array = open_features(project, "scan1", run).array
    noise = np.random.default_rng(0).normal(size=array.shape)
    noise /= np.linalg.norm(noise, axis=-1, keepdims=True)
    write_features(project, "scan1", run, noise.astype(np.float16), (1, 2, 2))
    lost, kept = matches_in(project, run).matches
    assert lost.scan == "scan1" and lost.agreement_mm > 5
    assert lost.confidence < kept.confidence / 2


def test_a_place_that_is_set_by_hand_wins_and_helps_to_find_the_others(made: tuple[Project, str]) -> None:
    project, run = made
    known = matches_in(
        project, run, matches_in(project, run).with_point(Landmark("carina", "scan1", (7, 7, 9)))
    )
    assert [type(known.in_scan(scan)[0]) for scan in project.scans] == [Landmark, Landmark, LandmarkMatch]
    assert known.in_scan("scan1")[0].voxel_zyx == (7, 7, 9)


def test_landmarks_come_back_from_the_disk(made: tuple[Project, str]) -> None:
    project, run = made
    known = matches_in(project, run)
    write_landmarks(project, known)
    assert read_landmarks(Project.open(project.root)) == known


def test_what_other_weights_found_is_not_shown_any_more(made: tuple[Project, str]) -> None:
    project, run = made
    write_landmarks(project, matches_in(project, run))
    project.run(run).checkpoint.write_bytes(b"trained further")
    assert read_landmarks(project) == KNOWN


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 9}', '{"version": 1, "set": [{"name": 3}]}'])
def test_a_damaged_file_is_one_sentence_that_names_it(made: tuple[Project, str], text: str) -> None:
    project, _ = made
    (project.root / FILE).write_text(text)
    with pytest.raises(UserError, match=FILE) as error:
        read_landmarks(project)
    assert error.value.code == "unreadable"


def test_places_outside_of_the_scans_are_left_out(made: tuple[Project, str]) -> None:
    project, _ = made
    gone, beyond = Landmark("a", "scan9", PLACE), Landmark("b", "scan0", (99, 0, 0))
    write_landmarks(project, KNOWN.with_point(gone).with_point(beyond))
    assert read_landmarks(project) == KNOWN


@pytest.mark.parametrize("name", ["", "   ", "a\nb", "x" * 61])
def test_a_name_that_does_not_work_is_refused(name: str) -> None:
    with pytest.raises(UserError) as error:
        Landmarks().with_point(Landmark(name, "scan0", PLACE))
    assert error.value.code == "bad-name"


def test_a_landmark_is_forgotten_in_all_scans(made: tuple[Project, str]) -> None:
    known = matches_in(*made).without("carina")
    assert not known.points and not known.matches


def test_the_table_has_patient_millimetres(made: tuple[Project, str], tmp_path: Path) -> None:
    project, run = made
    write_landmark_table(tmp_path / "out.csv", project, matches_in(project, run))
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert [row["scan"] for row in rows] == list(project.scans)
    assert (rows[0]["name"], rows[0]["confidence"]) == ("carina", "1.000")
    right, anterior, superior = (float(rows[0][name]) for name in ("x_mm", "y_mm", "z_mm"))
    assert (superior, anterior, right) == pytest.approx(tuple(np.multiply(PLACE, SPACING)))
    assert 0 < float(rows[1]["confidence"]) <= 1


def test_a_table_of_nothing_is_one_sentence(made: tuple[Project, str], tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        write_landmark_table(tmp_path / "out.csv", made[0], Landmarks())
    assert error.value.code == "nothing-yet" and not (tmp_path / "out.csv").exists()
