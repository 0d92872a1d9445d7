"""A place is found again in other scans, by what is around it, on a thinned grid as on the full one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from feature_scenes import STEP, make_project, moved
from medssl.core.errors import UserError
from medssl.core.features.retrieval import Point, best_match, neighbourhood_descriptor, query_of, search
from medssl.core.features.similarity import open_features, write_features
from medssl.core.project.project import Project

PLACE = (8, 11, 13)


@pytest.fixture
def made(tmp_path: Path) -> tuple[Project, str]:
    return make_project(tmp_path)


def test_a_place_is_found_in_every_scan(made: tuple[Project, str]) -> None:
    project, run = made
    query = query_of(project, run, [Point("scan0", PLACE)])
    found = {match.scan: match for match in search(project, run, query, project.scans)}
    assert {scan: match.voxel_zyx for scan, match in found.items()} == {
        "scan0": PLACE, "scan1": moved(PLACE, 2), "scan2": moved(PLACE, 3)
    }  # fmt: skip
    assert found["scan0"].score == pytest.approx(1, abs=0.01)


def test_a_thinned_grid_finds_the_same_place(
    made: tuple[Project, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, run = made
    query, cache = query_of(project, run, [Point("scan0", PLACE)]), open_features(project, "scan1", run)
    exact = best_match(cache, query)
    monkeypatch.setattr("medssl.core.features.retrieval.COARSE_CELLS", 300)
    thin = best_match(cache, query)
    assert thin.voxel_zyx == exact.voxel_zyx and thin.score == pytest.approx(exact.score, abs=1e-4)


def test_surroundings_tell_apart_what_looks_alike(made: tuple[Project, str]) -> None:
    """Two cells with the same features: only what is around them says which one was clicked."""
    project, run = made
    array = np.array(open_features(project, "scan1", run).array)
    here, there = (8, 6, 7), (3, 3, 3)
    array[there] = array[here]
    write_features(project, "scan1", run, array, STEP)
    cache = open_features(project, "scan1", run)
    for cell in (here, there):
        voxel = cache.voxel_of(cell)
        assert best_match(cache, query_of(project, run, [Point("scan1", voxel)])).voxel_zyx == voxel


def test_a_place_that_is_not_meant_is_not_found(made: tuple[Project, str]) -> None:
    project, run = made
    cache, wrong, meant = open_features(project, "scan1", run), (6, 7, 7), Point("scan0", PLACE)
    lured = query_of(project, run, [meant, Point("scan1", wrong)])
    told = query_of(project, run, [meant, Point("scan1", wrong, like=False)])
    place = neighbourhood_descriptor(cache, wrong)[0]
    assert place @ lured.centre > 0.5 and abs(place @ told.centre) < 0.02
    assert best_match(cache, told).voxel_zyx != wrong


def test_scans_without_features_are_left_out(made: tuple[Project, str]) -> None:
    project, run = made
    (project.root / "features" / f"scan1-{run}.json").unlink()
    query = query_of(project, run, [Point("scan0", PLACE)])
    assert [match.scan for match in search(project, run, query, project.scans)] == ["scan0", "scan2"]


def test_a_click_in_a_scan_without_features_is_one_sentence(made: tuple[Project, str]) -> None:
    project, run = made
    (project.root / "features" / f"scan0-{run}.json").unlink()
    with pytest.raises(UserError) as error:
        query_of(project, run, [Point("scan0", PLACE)])
    assert error.value.code == "no-features"
