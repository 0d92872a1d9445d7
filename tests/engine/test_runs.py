"""Runs, what they predicted, and what is exported of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from medssl.core.errors import UserError
from medssl.core.export.files import export_scan
from medssl.core.files import portable_name
from medssl.core.io.labels import read_labels
from medssl.core.io.volume import read_scan
from medssl.core.project.project import Annotation, Project
from project_parts import SHAPE, code_of, painted


def test_runs_are_numbered_and_listed_oldest_first(small_project: Project) -> None:
    small_project.new_run("pretrain", {"job": "pretrain"}, "pgl")
    small_project.new_run("finetune", {"job": "finetune"}, "finetune")
    assert [run.id for run in small_project.runs()] == ["0001-pretrain-pgl", "0002-finetune-finetune"]
    assert [run.id for run in small_project.runs("finetune")] == ["0002-finetune-finetune"]


def test_the_ten_thousandth_run_comes_last(small_project: Project) -> None:
    for number in ("9999", "0002"):
        run = small_project.new_run("pretrain", {}, "pgl")
        run.folder.rename(run.folder.with_name(f"{number}-pretrain-pgl"))
    small_project.new_run("pretrain", {}, "pgl")
    assert [run.id[:5] for run in small_project.runs()] == ["0002-", "9999-", "10000"]


def test_a_run_keeps_its_job(small_project: Project) -> None:
    run = small_project.new_run("pretrain", {"job": "pretrain", "seed": 3}, "pgl")
    assert small_project.run(run.id) == run
    assert run.card == {}
    assert run.checkpoint == small_project.root / "runs" / "0001-pretrain-pgl" / "checkpoint.safetensors"


def test_runs_that_start_at_once_have_numbers_of_their_own(small_project: Project) -> None:
    def start(position: int) -> str:
        kind = ("pretrain", "finetune")[position % 2]
        return Project.open(small_project.root).new_run(kind, {"job": kind}, "x").id[:4]

    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(start, range(16)))
    assert sorted(numbers) == [f"{number:04d}" for number in range(1, 17)]
    assert len(small_project.runs()) == 16


def test_a_run_that_was_cut_off_at_its_start_is_left_out(small_project: Project) -> None:
    small_project.new_run("pretrain", {}, "pgl")
    (small_project.root / "runs" / "0002-pretrain-pgl").mkdir()
    damaged = small_project.new_run("pretrain", {}, "pgl")
    (damaged.folder / "job.json").write_text("{")
    (small_project.root / "runs" / "notes").mkdir()
    (small_project.root / "runs" / "notes" / "job.json").write_text("{}")
    assert [run.id for run in small_project.runs()] == ["0001-pretrain-pgl"]


@pytest.mark.parametrize("run_id", ["", ".", "0007-pretrain-pgl", "../runs/0001-pretrain-pgl"])
def test_a_run_that_is_not_there_is_said(small_project: Project, run_id: str) -> None:
    small_project.new_run("pretrain", {}, "pgl")
    with pytest.raises(UserError, match="0001-pretrain-pgl") as error:
        small_project.run(run_id)
    assert code_of(error) == "no-run"


@pytest.fixture
def run(small_project: Project) -> str:
    """A fine-tuning run that has predicted class 2 everywhere."""
    made = small_project.new_run("finetune", {}, "finetune").id
    small_project.save_prediction(made, "scan", np.full(SHAPE, 2, np.uint8))
    return made


def test_a_prediction_comes_back(small_project: Project, run: str) -> None:
    prediction = small_project.prediction(run, "scan")
    assert prediction is not None
    assert (prediction == 2).all()


def test_there_is_no_prediction_before_the_first(small_project: Project) -> None:
    assert small_project.prediction("0001-finetune-finetune", "scan") is None


def test_strokes_win_over_the_prediction(small_project: Project, run: str) -> None:
    labels = painted(1)
    labels[4, 0, 0] = 255
    small_project.save_annotation("scan", Annotation(labels, ((0, 5),)))
    segmentation = small_project.segmentation("scan", run)
    expected = np.full(SHAPE, 2)
    expected[labels == 1] = 1
    expected[4, 0, 0] = 0
    expected[5] = 0
    assert np.array_equal(segmentation, expected)


def test_without_a_run_the_annotation_alone_is_the_segmentation(small_project: Project) -> None:
    small_project.save_annotation("scan", Annotation(painted(1)))
    assert np.array_equal(small_project.segmentation("scan"), painted(1))


def test_a_segmentation_of_nothing_is_refused(small_project: Project) -> None:
    with pytest.raises(UserError) as error:
        small_project.segmentation("scan")
    assert code_of(error) == "nothing-yet"


def test_a_missing_prediction_is_not_taken_for_background(small_project: Project) -> None:
    small_project.save_annotation("scan", Annotation(painted(1)))
    empty = small_project.new_run("finetune", {}, "finetune").id
    with pytest.raises(UserError) as error:
        small_project.segmentation("scan", empty)
    assert code_of(error) == "nothing-yet"


@pytest.mark.parametrize("name", ["out.nii", "out.nii.gz", "out.nrrd", "out.mha"])
def test_an_export_lies_on_the_scans_own_grid(
    small_project: Project, scan_file: Path, tmp_path: Path, run: str, name: str
) -> None:
    small_project.save_annotation("scan", Annotation(painted(1)))
    export_scan(small_project, "scan", run, tmp_path / name)
    labels = read_labels(tmp_path / name)
    assert labels.geometry.shape == read_scan(scan_file).geometry.shape
    assert np.allclose(labels.geometry.matrix, read_scan(scan_file).geometry.matrix, rtol=0, atol=1e-12)
    assert np.array_equal(labels.array, small_project.segmentation("scan", run))


@pytest.mark.parametrize("name", ["mae+pgl", "ends with a dot.", "../../elsewhere", "a:b"])
def test_a_run_s_folder_has_a_name_that_any_system_takes(small_project: Project, name: str) -> None:
    run = small_project.new_run("pretrain", {}, name)
    assert portable_name(run.id)
    assert run.folder.parent == small_project.root / "runs"
    assert small_project.run(run.id).kind == "pretrain"
    assert run.id.endswith("-mae+pgl") == (name == "mae+pgl")
