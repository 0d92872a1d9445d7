"""Probabilities and doubt on disk: what they say, on which axes, how much room and memory they take."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from medssl import engine
from medssl.core.errors import UserError
from medssl.core.events import Progress
from medssl.core.jobs import PredictJob
from medssl.core.project import probabilities
from medssl.core.project.probabilities import open_probabilities, to_uint8, write_probabilities
from medssl.core.project.project import Project
from small import Events, make_project, never, plan
from test_predict import predictor


def test_uncertainty_is_one_where_all_classes_are_alike_and_none_where_one_is_sure() -> None:
    scores = np.zeros((1, 3, 1, 3), np.float32)
    scores[0, :, 0, 0] = 1 / 3
    scores[0, 1, 0, 1] = 1
    scores[0, :, 0, 2] = 0.5, 0.5, 0
    uncertainty, first, second = to_uint8(scores)[0, :, 0]
    assert uncertainty.tolist() == [255, 0, round(255 * math.log(2) / math.log(3))]
    assert (first.tolist(), second.tolist()) == ([85, 255, 128], [85, 0, 0])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_predicted_voxel_has_its_most_probable_class_and_more_of_it_than_those_left_out(
    tmp_path: Path, dims: int, axis: int
) -> None:
    project = make_project(tmp_path, shape=(20, 18, 16))
    run, scan = predictor(project, plan(dims, slice_axis=axis)), next(iter(project.scans))
    events = Events()
    job = PredictJob(project=str(project.root), weights=run, scans=(scan,), probabilities=True)
    engine.run(job, events, never)
    found, labels = open_probabilities(project, run, scan), project.prediction(run, scan)
    assert labels is not None
    assert found.uncertainty.shape == labels.shape
    assert list(found.classes) == [item.id for item in project.classes]
    classes = np.stack(list(found.classes.values())).astype(int)
    ids = np.array(list(found.classes))[classes.argmax(0)]
    second, best = np.sort(np.concatenate([0 * classes[:1], classes]), axis=0)[-2:]
    clear = best > second + 3  # rounded to bytes
    given = labels > 0
    assert (clear & given).any()
    assert np.array_equal(ids[clear & given], labels[clear & given])
    for number in np.unique(ids[given]):
        mine = ids == number
        left_out = best[mine & clear & ~given]
        assert best[mine & given].min() >= left_out.max(initial=0) - 1, "one threshold for the class"
    assert [event.fraction for event in events.of(Progress) if event.phase == "Probabilities"][-1] == 1


def kept(project: Project, run: str, scores: np.ndarray, slab: int = 4) -> None:
    """Keep scores (slices, 1 + classes, rows, columns) of the first scan, a few slices at a time."""

    def segment(keep: probabilities.WriteSlab) -> np.ndarray:
        for first in range(0, len(scores), slab):
            keep(scores[first : first + slab])
        return np.zeros(1)

    classes = [item.id for item in project.classes]
    made, scan = project.run(run), next(iter(project.scans))
    write_probabilities(
        project, made, scan, made.weights_sha256, classes, (0, 1, 2), segment, lambda event: None
    )


def test_every_number_is_read_back_whatever_is_left_out_of_the_file(tmp_path: Path) -> None:
    project = make_project(tmp_path, shape=(10, 12, 14))
    run = predictor(project, plan())
    random = np.random.default_rng(0)
    inside = random.random((10, 1, 12, 14)).astype(np.float32) * (random.random((10, 1, 12, 1)) < 0.3)
    inside[3] = 0
    scores = np.concatenate([1 - inside, inside], 1)
    kept(project, run, scores)
    found = open_probabilities(project, run, next(iter(project.scans)))
    expected = to_uint8(scores)
    assert np.array_equal(found.uncertainty, expected[:, 0])
    assert np.array_equal(found.classes[1], expected[:, 1])


def test_a_scan_that_is_nearly_all_sure_background_takes_little_room(tmp_path: Path) -> None:
    project = make_project(tmp_path, seeds=(0,), shape=(64, 128, 128))
    run, scan = predictor(project, plan()), next(iter(project.scans))
    scores = np.zeros((64, 2, 128, 128), np.float32)
    scores[:, 0], scores[30:34, :, 40:60, 40:60] = 1, 0.5
    kept(project, run, scores)
    (path,) = project.run(run).folder.glob("predictions/*.probabilities.npy")
    assert path.stat().st_size > 2 * 64 * 128 * 128
    if getattr(path.stat(), "st_blocks", 0):
        assert path.stat().st_blocks * 512 < 0.1 * path.stat().st_size
    assert open_probabilities(project, run, scan).uncertainty[32, 50, 50] == 255


def test_probabilities_of_other_weights_are_none(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    run, scan = predictor(project, plan()), next(iter(project.scans))
    with pytest.raises(UserError) as caught:
        open_probabilities(project, run, scan)
    assert caught.value.code == "no-probabilities"
    engine.run(
        PredictJob(project=str(project.root), weights=run, scans=(scan,), probabilities=True), Events(), never
    )
    open_probabilities(project, run, scan)
    with project.run(run).checkpoint.open("ab") as file:
        file.write(b"trained on")
    with pytest.raises(UserError):
        open_probabilities(project, run, scan)


def test_a_damaged_file_is_as_good_as_none(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    run, scan = predictor(project, plan()), next(iter(project.scans))
    engine.run(
        PredictJob(project=str(project.root), weights=run, scans=(scan,), probabilities=True), Events(), never
    )
    (path,) = project.run(run).folder.glob("predictions/*.probabilities.npy")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError) as caught:
        open_probabilities(project, run, scan)
    assert caught.value.code == "no-probabilities"
