"""The grid of benchmarks/few_slices.py, its peers and its page, on a tiny data set with a stand-in engine."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import few_slices
import few_slices_page
import numpy as np
import pytest
from few_slices import Grid, grid_of
from made_dataset import write_dataset
from medssl.benchmarking import experiment, protocol, results_log
from medssl.benchmarking.protocol import Assignment, Material
from medssl.benchmarking.results_log import Failure
from medssl.core.errors import UserError
from medssl.core.io.labels import read_labels
from medssl.core.jobs import FinetuneJob, Job
from medssl.core.labels.evaluate import reference_labels
from medssl.core.labels.shape_interpolation import interpolate
from medssl.core.project.project import Project
from peers import Bench, nnunet
from peers.forest import features_of, random_forest
from peers.interpolation import interpolated
from stand_in import Engine


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two data sets of seven scans each."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("hippocampus", "ct"):
        write_dataset(folder / few_slices.DATASETS[name].folder)
    return folder


def grid(data: Path, tmp_path: Path, *more: str) -> Grid:
    words = ["run", "--data", str(data), "--work", str(tmp_path / "work"), "--out", str(tmp_path / "lines")]
    return grid_of(few_slices.arguments().parse_args([*words, "--device", "cpu", "--minutes", "1", *more]))


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    stand_in = Engine()
    monkeypatch.setattr(few_slices, "worker", lambda screen, should_stop: stand_in)
    return stand_in


@pytest.fixture
def assignment(data: Path, tmp_path: Path) -> Assignment:
    material = opened(data, tmp_path)
    return protocol.assign(material, "forest", 0, protocol.Settings(slices=10, minutes=1, device="cpu"))


def opened(data: Path, tmp_path: Path, name: str = "hippocampus") -> Material:
    return few_slices.open_dataset(data, name, tmp_path / "work", lambda event: None)


def fine_tunings(engine: Engine) -> list[FinetuneJob]:
    return [job for job in engine.jobs if isinstance(job, FinetuneJob)]


def test_a_cell_that_has_its_line_is_not_run_again(data: Path, tmp_path: Path, engine: Engine) -> None:
    few_slices.run(grid(data, tmp_path, "--methods", "random", "--seeds", "0,1"))
    assert len(engine.jobs) == 2
    few_slices.run(grid(data, tmp_path, "--methods", "random,pgl", "--seeds", "0,1"))
    assert [job.weights == "random" for job in fine_tunings(engine)] == [True, True, False, False]
    lines = results_log.read_cells(tmp_path / "lines")
    assert [(each.method, each.seed) for each in lines] == [
        ("random", 0), ("random", 1), ("pgl", 0), ("pgl", 1)
    ]  # fmt: skip


def test_other_slices_minutes_or_settings_are_other_cells(data: Path, tmp_path: Path, engine: Engine) -> None:
    usual = ("--methods", "random", "--seeds", "0")
    for more in ([], ["--slices", "5"], ["--minutes", "2"], ["--set", "finetune.turn=0.1"], []):
        few_slices.run(grid(data, tmp_path, *usual, *more))
    assert len(fine_tunings(engine)) == 4
    assert fine_tunings(engine)[-1].settings == {"turn": 0.1}
    assert results_log.read_cells(tmp_path / "lines")[-1].settings["finetune"] == {"turn": 0.1}


def test_how_random_weights_share_their_time_with_pretraining_is_nothing_to_them(
    data: Path, tmp_path: Path, engine: Engine
) -> None:
    for share in ("0.4", "0.6"):
        few_slices.run(
            grid(data, tmp_path, "--methods", "random,pgl", "--seeds", "0", "--pretrain-share", share)
        )
    assert [each.method for each in results_log.read_cells(tmp_path / "lines")] == ["random", "pgl", "pgl"]


def test_the_line_says_how_the_number_came_about(data: Path, tmp_path: Path, engine: Engine) -> None:
    few_slices.run(grid(data, tmp_path, "--methods", "pgl:none", "--seeds", "2"))
    line = json.loads((tmp_path / "lines").read_text())
    assert (line["dataset"], line["method"], line["seed"]) == ("hippocampus", "pgl:none", 2)
    assert line["settings"]["slices"] == 10
    assert line["settings"]["minutes"] == 1.0
    assert line["settings"]["pretrain_share"] == protocol.PRETRAIN_SHARE
    assert line["notes"].pop("cores") >= 0
    assert line["notes"] == {"semi_supervised": "none"}
    assert fine_tunings(engine)[0].semi_supervised == "none"
    assert sum(len(slices) for slices in line["annotated"].values()) == 10
    assert set(line["seconds"]) == {"pretrain", "finetune", "wall"}
    assert set(line["machine"]) == {"cpu", "gpu", "torch", "monai", "medssl", "commit"}
    assert list(line["dice_of_scan"]) == ["case0", "case5"]
    for name in ("dice", "hausdorff95_mm", "volume_error"):
        assert line[name] == line[f"{name}_of_class"]["structure"]
    assert line["dice"] < line["dice_on_painted_scans"]  # there, what was painted counts as painted


def test_every_third_ct_is_a_test_scan(data: Path, tmp_path: Path) -> None:
    assert list(opened(data, tmp_path, "ct").references) == ["case0", "case3", "case6"]


def test_validation_scans_are_neither_test_scans_nor_annotated_and_are_held_out(
    data: Path, tmp_path: Path
) -> None:
    material = opened(data, tmp_path)
    for seed in range(4):
        settings = protocol.Settings(slices=10, minutes=1, judge="validation")
        given = protocol.assign(material, "random", seed, settings)
        assert given.judged
        assert not set(given.judged) & {*material.references, *given.annotated}
        held_out = {scan.id for scan in material.project.scans.values() if scan.held_out}
        assert held_out == {*material.references, *given.judged}


def test_a_method_that_fails_is_noted_and_the_others_go_on(
    data: Path, tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails_once(job: Job) -> dict[str, Any]:
        if not engine.jobs:
            engine.jobs.append(job)
            raise UserError("These scans are too thin; choose another method.", code="thin")
        return engine(job)

    monkeypatch.setattr(few_slices, "worker", lambda screen, should_stop: fails_once)
    asked = grid(data, tmp_path, "--methods", "sal,random", "--seeds", "0")
    few_slices.run(asked)
    first, second = results_log.read_lines(tmp_path / "lines")
    assert isinstance(first, Failure)
    assert first.failed == "These scans are too thin; choose another method."
    assert second.method == "random"
    few_slices.run(asked)  # tries again what failed
    assert [each.method for each in results_log.read_cells(tmp_path / "lines")] == ["random", "sal"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--methods", "mea"], "no-method"),
        (["--methods", "mae:some"], "no-method"),
        (["--datasets", "liver"], "no-dataset"),
        (["--set", "turn=1"], "bad-setting"),
    ],
)
def test_what_is_misspelt_is_refused_before_anything_runs(
    data: Path, tmp_path: Path, words: list[str], code: str
) -> None:
    with pytest.raises(UserError) as error:
        grid(data, tmp_path, *words)
    assert error.value.code == code


def test_a_method_has_one_name_however_it_is_written(data: Path, tmp_path: Path) -> None:
    written = "random:self_training,random,mae:none,mae:self_training,forest"
    assert grid(data, tmp_path, "--methods", written).methods == ("random", "mae:none", "mae", "forest")


def test_a_forest_finds_a_structure_that_its_grey_values_tell(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    write_dataset(tmp_path / few_slices.DATASETS["hippocampus"].folder, contrast=6.0)
    settings = protocol.Settings(slices=10, minutes=1, device="cpu")
    given = protocol.assign(opened(tmp_path, tmp_path), "forest", 0, settings)
    for position in (False, True):
        cell = experiment.judge(given, random_forest(given, position))
        assert cell.judged_on == "test"
        assert cell.dice > 0.7


def test_position_is_three_more_features_from_0_to_1() -> None:
    image = np.random.default_rng(0).normal(size=(5, 7, 9)).astype(np.float16)
    plain, more = (features_of(image, 4, position) for position in (False, True))
    assert more.shape == (7, 9, plain.shape[2] + 3)
    assert more[6, 0, -3:].tolist() == [1.0, 1.0, 0.0]


def cone(radii: list[float]) -> np.ndarray:
    """A disc of the given radius in each slice (Z, 40, 40); 0 for none."""
    y, x = np.mgrid[:40, :40] - 19.5
    return np.stack([(np.hypot(y, x) < radius).astype(np.uint8) for radius in radii])


def test_interpolation_blends_outlines_between_painted_slices_and_stops_at_the_last() -> None:
    labels = cone([4, 8, 12, 16, 18])
    result = interpolate(labels, [0, 3], [1], (1.0, 1.0))
    areas = result.sum(axis=(1, 2))
    assert areas[:4] == pytest.approx(labels[:4].sum(axis=(1, 2)), rel=0.06)
    assert areas[4] == 0
    assert (result[[0, 3]] == labels[[0, 3]]).all()


def test_a_structure_that_is_gone_in_the_next_painted_slice_tapers_to_an_end_halfway() -> None:
    areas = interpolate(cone([12, 0, 0, 0, 0]), [0, 4], [1], (1.0, 1.0)).sum(axis=(1, 2))
    assert areas[0] > 2 * areas[1] > 0
    assert (areas[2:] == 0).all()


def test_interpolation_is_judged_on_the_painted_scans_and_its_line_says_so(assignment: Assignment) -> None:
    cell = experiment.judge(assignment, interpolated(assignment))
    assert cell.judged_on == "painted"
    assert set(cell.dice_of_scan) == set(assignment.annotated)
    assert cell.dice == cell.dice_on_painted_scans > 0.8


def test_nnunet_is_given_the_painted_slices_and_an_ignore_label_elsewhere(
    assignment: Assignment, tmp_path: Path
) -> None:
    nnunet.export(assignment, tmp_path / "given")
    raw = tmp_path / "given" / "raw" / "Dataset001_FewSlices"
    assert json.loads((raw / "dataset.json").read_text())["labels"] == {
        "background": 0, "structure": 1, "ignore": 2
    }  # fmt: skip
    for scan_id, slices in assignment.annotated.items():
        labels = read_labels(raw / "labelsTr" / f"{scan_id}.nii.gz").array
        path = assignment.material.rest[scan_id]
        true = reference_labels(assignment.material.project.scans[scan_id], path)
        assert (labels[slices] == true[slices]).all()
        assert (np.delete(labels, slices, axis=0) == 2).all()
    wanted = {path.name for path in (tmp_path / "given" / "wanted").iterdir()}
    assert wanted == {f"{scan_id}_0000.nii.gz" for scan_id in assignment.scans}


@pytest.mark.skipif("MEDSSL_NNUNET_ENV" not in os.environ, reason="needs nnU-Net's environment")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_nnunet_trains_for_its_minutes_and_predicts(tmp_path: Path, configuration: str) -> None:
    write_dataset(tmp_path / few_slices.DATASETS["hippocampus"].folder, contrast=6.0, scale=6)
    settings = protocol.Settings(slices=10, minutes=0.3, device="cpu")
    given = protocol.assign(opened(tmp_path, tmp_path), "nnunet", 0, settings)
    bench = Bench(tmp_path / "nnunet", Path(os.environ["MEDSSL_NNUNET_ENV"]), lambda: False)
    outcome = nnunet.run_nnunet(given, bench, configuration)
    assert outcome.seconds["finetune"] >= 18
    assert outcome.steps["finetune"] > 0
    assert outcome.prediction("case0").shape == (20, 30, 36)


def test_the_page_shows_what_was_run_and_what_was_not(
    data: Path, tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_slices.run(grid(data, tmp_path, "--methods", "random", "--seeds", "0,1"))
    other = replace(grid(data, tmp_path, "--methods", "pgl,interpolation"), out=tmp_path / "more")
    few_slices.run(other)
    page = tmp_path / "page.md"
    page.write_text(f"# Ours\n\nWhat it says.\n{few_slices_page.MARK}\nold")
    made = few_slices_page.draw([tmp_path / "lines", tmp_path / "more"], page, few_slices.DATASETS)
    text = page.read_text()
    assert text.startswith("# Ours\n\nWhat it says.\n")
    assert "old" not in text
    assert "| random | 10 | **0.667** ± 0.000 |  | 0.667 / 0.667 / not run |" in text
    assert "| PGL | 10 | **0.667** ± 0.000 | +0.000 ± 0.000 | 0.667 / 0.667 / 0.667 |" in text
    assert "| PGL | 5, 20 | not run |" in text
    assert "| nnU-Net 2d | 5, 10, 20 | not run |" in text
    assert "| shape-based interpolation | 10 | – |  | – / – / – | – | – | 0.875 ± 0.000 |" in text
    assert "## prostate\n\nAll cells: not run." in text
    assert made == [page, tmp_path / "page-hippocampus.png"]
    assert made[1].stat().st_size > 10_000


def test_where_pretraining_comes_on_top_random_weights_stand_beside_it(
    data: Path, tmp_path: Path, engine: Engine
) -> None:
    few_slices.run(grid(data, tmp_path, "--methods", "random,mae", "--seeds", "0", "--pretrain-minutes", "3"))
    page = tmp_path / "page.md"
    few_slices_page.draw([tmp_path / "lines"], page, ["hippocampus"])
    text = page.read_text()
    (heading,) = (line for line in text.splitlines() if line.startswith("## "))
    assert heading == "## hippocampus, 1 minutes after 3 of pre-training, CPU"
    assert "| MAE | 10 | **0.667** | +0.000 | 0.667 / not run / not run |" in text
    assert "| PGL | 10 | not run |" in text
    assert "| random forest" not in text
    few_slices.run(grid(data, tmp_path, "--methods", "mae", "--seeds", "0"))
    few_slices_page.draw([tmp_path / "lines"], page, ["hippocampus"])
    shares, on_top = (part.splitlines() for part in page.read_text().split("## ")[1:])
    assert (shares[0], on_top[0]) == ("hippocampus, 1 minutes, CPU", heading[3:])
    for table in (shares, on_top):
        assert sum(line.startswith(("| random | 10 | **", "| MAE | 10 | **")) for line in table) == 2


def test_a_method_is_compared_with_random_weights_that_are_fine_tuned_in_the_same_way(
    data: Path, tmp_path: Path, engine: Engine
) -> None:
    few_slices.run(grid(data, tmp_path, "--methods", "random,random:none,pgl,pgl:none", "--seeds", "0"))
    found = {"random": 0.5, "random:none": 0.6, "pgl": 0.52, "pgl:none": 0.65}
    lines = [replace(cell, dice=found[cell.method]) for cell in results_log.read_cells(tmp_path / "lines")]
    for line in lines:
        results_log.append(tmp_path / "changed", line)
    few_slices_page.draw([tmp_path / "changed"], tmp_path / "page.md", ["hippocampus"])
    text = (tmp_path / "page.md").read_text()
    assert "| random, labels only | 10 | **0.600** | +0.100 |" in text
    assert "| PGL | 10 | **0.520** | +0.020 |" in text
    assert "| PGL, labels only | 10 | **0.650** | +0.050 |" in text


def test_a_pretraining_that_other_seeds_start_from_is_kept(
    data: Path, tmp_path: Path, engine: Engine
) -> None:
    few_slices.run(
        grid(data, tmp_path, "--methods", "mae", "--seeds", "0", "--pretrain-minutes", "3", "--keep")
    )
    (cell,) = results_log.read_cells(tmp_path / "lines")
    project = Project.open(tmp_path / "work" / "hippocampus")
    for run in project.runs():
        run.checkpoint.write_bytes(b"weights")
    few_slices.forget_weights(project, cell)
    assert [run.kind for run in project.runs() if run.checkpoint.exists()] == ["pretrain"]


def test_of_two_lines_of_a_cell_the_newer_one_counts(data: Path, tmp_path: Path, engine: Engine) -> None:
    few_slices.run(grid(data, tmp_path, "--methods", "random", "--seeds", "0"))
    (cell,) = results_log.read_cells(tmp_path / "lines")
    results_log.append(tmp_path / "older", replace(cell, dice=0.1, date="2020-01-01T00:00:00+00:00"))
    page = tmp_path / "page.md"
    few_slices_page.draw([tmp_path / "lines", tmp_path / "older"], page, ["hippocampus"])
    assert "**0.667**" in page.read_text()
    assert "0.100" not in page.read_text()


def test_the_weights_of_finished_cells_are_deleted_unless_they_are_to_be_kept(
    data: Path, tmp_path: Path, engine: Engine
) -> None:
    few_slices.run(grid(data, tmp_path, "--methods", "random", "--seeds", "0"))
    project = Project.open(tmp_path / "work" / "hippocampus")
    (run,) = project.runs()
    run.checkpoint.write_bytes(b"weights")
    (cell,) = results_log.read_cells(tmp_path / "lines")
    few_slices.forget_weights(project, cell)
    assert not run.checkpoint.exists()
    assert (run.folder / "job.json").exists()
