"""The few-slice protocol and the demo around it, with a stand-in for the engine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import nibabel
import pytest
from made_dataset import write_dataset
from medssl.benchmarking import demo, experiment, protocol, report, results_log
from medssl.benchmarking.dataset import read_dataset
from medssl.benchmarking.protocol import Material, Settings
from medssl.benchmarking.results_log import Cell
from medssl.core.errors import UserError
from medssl.core.jobs import FinetuneJob, Job, PretrainJob
from medssl.core.json_files import write_json
from medssl.core.project.project import Project
from stand_in import Engine

SETTINGS = Settings(slices=5, minutes=10.0)


@pytest.fixture(scope="module")
def dataset_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture
def material(dataset_folder: Path, tmp_path: Path) -> Material:
    dataset = read_dataset(dataset_folder)
    return protocol.gather(Project.create(tmp_path / "project", dataset.classes), dataset, lambda done: None)


def test_test_cases_and_only_they_are_held_out(material: Material) -> None:
    held_out = {scan.id for scan in material.project.scans.values() if scan.held_out}
    assert held_out == {"case0", "case5"} == set(material.references)


def test_scans_that_are_there_are_not_read_again(material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Project, "add_scan", None)
    again = protocol.gather(material.project, material.dataset, lambda done: None)
    assert again.scan_ids == material.scan_ids


def test_a_seed_always_draws_the_same_two_scans_and_never_a_test_scan(material: Material) -> None:
    drawn = [protocol.annotate_for(material, seed, 5) for seed in (3, 4, 3)]
    assert drawn[0] == drawn[2] != drawn[1]
    assert all(len(each) == 2 and not set(each) & set(material.references) for each in drawn)


def test_the_slices_are_spread_over_both_scans(material: Material) -> None:
    counts = sorted(len(chosen) for chosen in protocol.annotate_for(material, 0, 5).values())
    assert counts == [2, 3]


def test_annotations_of_another_seed_are_gone(material: Material) -> None:
    protocol.annotate_for(material, 3, 10)
    latest = protocol.annotate_for(material, 4, 10)
    assert set(material.project.annotated()) == set(latest)


def test_too_few_labelled_scans_are_refused(material: Material) -> None:
    small = replace(material.dataset, pairs=material.dataset.pairs[:2])
    with pytest.raises(UserError, match="at least 2 are needed"):
        protocol.annotate_for(replace(material, dataset=small), 0, 5)


def test_random_weights_have_all_the_time_for_fine_tuning(material: Material) -> None:
    engine = Engine()
    experiment.run_cell(material, protocol.RANDOM, 0, SETTINGS, engine)
    assert [type(job) for job in engine.jobs] == [FinetuneJob]
    assert engine.jobs[0].minutes == 10.0
    assert engine.jobs[0].weights == protocol.RANDOM


def test_pretrained_weights_share_the_same_time(material: Material) -> None:
    engine = Engine()
    cell = experiment.run_cell(material, "pgl", 0, SETTINGS, engine)
    first, second = engine.jobs
    assert isinstance(first, PretrainJob)
    assert first.minutes + second.minutes == pytest.approx(10.0)
    assert first.minutes == pytest.approx(10.0 * protocol.PRETRAIN_SHARE)
    assert second.weights == cell.runs["pretrain"]


def test_a_pretraining_on_top_is_made_once_for_all_seeds(material: Material) -> None:
    engine, asked = Engine(), replace(SETTINGS, pretrain_minutes=3.0)

    def work(job: Job) -> dict[str, Any]:
        result = engine(job)
        run = material.project.run(result["run"])
        scans = [scan.sha256 for scan in material.project.scans.values() if not scan.held_out]
        if isinstance(job, PretrainJob):
            run.checkpoint.write_bytes(b"weights")
        write_json(
            run.folder / "card.json",
            {"collapse_report": {"step": 9}, "scans": scans, "step": 9, "elapsed_s": 180},
        )
        return result

    done = [experiment.run_cell(material, "pgl", seed, asked, work) for seed in (1, 2)]
    assert [(type(job), job.seed, job.minutes) for job in engine.jobs] == [
        (PretrainJob, 0, 3.0), (FinetuneJob, 1, 10.0), (FinetuneJob, 2, 10.0)
    ]  # fmt: skip
    assert done[0].runs["pretrain"] == done[1].runs["pretrain"] == engine.jobs[-1].weights
    assert done[1].seconds["pretrain"] == 180
    experiment.run_cell(material, "pgl", 1, replace(asked, pretrain={"zoom": [1.0, 1.1]}), work)
    material.project.hold_out("case1", True)
    experiment.train(protocol.assign(material, "pgl", 1, replace(asked, judge="validation")), work)
    assert [type(job) for job in engine.jobs[3:]] == [PretrainJob, FinetuneJob] * 2, "another pre-training"


def test_how_long_others_pretrained_is_nothing_to_random_weights() -> None:
    assert replace(SETTINGS, pretrain_minutes=3.0).concerning("random") == SETTINGS.concerning("random")


def test_a_cell_has_the_dice_of_the_test_scans(material: Material) -> None:
    engine = Engine()
    cell = experiment.run_cell(material, "pgl", 0, SETTINGS, engine)
    assert set(engine.jobs[-1].predict_scans) == {"case0", "case5", *cell.annotated}
    assert cell.dice == pytest.approx(2 / 3, abs=1e-4)  # half of the structure is found
    assert cell.dice_of_class == {"structure": cell.dice}
    assert set(cell.dice_of_scan) == {"case0", "case5"}
    assert cell.volume_error == 0.5
    assert cell.hausdorff95_mm == 4.0  # the missing four slices of 1 mm


def cell(method: str, seed: int, dice: float, settings: Settings = SETTINGS) -> Cell:
    return Cell(
        dataset="Made",
        method=method,
        seed=seed,
        settings=asdict(settings),
        judged_on="test",
        annotated={"case1": [4, 8]},
        seconds={"finetune": 90.0, "wall": 100.0},
        dice=dice,
        dice_of_class={"structure": dice},
        dice_of_scan={"case0": dice},
        hausdorff95_mm=2.0,
        hausdorff95_mm_of_class={"structure": 2.0},
        volume_error=0.1,
        volume_error_of_class={"structure": None},
        dice_on_painted_scans=dice,
        runs={"finetune": "0001-finetune-made"},
    )


def test_cells_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = [cell("random", 0, 0.5), cell("pgl", 0, 0.6)]
    for each in written:
        results_log.append(tmp_path / "cells.jsonl", each)
    assert results_log.read_cells(tmp_path / "cells.jsonl") == written


def test_lines_of_several_runners_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    with ThreadPoolExecutor(4) as runners:
        list(runners.map(lambda seed: results_log.append(path, cell("random", seed, 0.5)), range(60)))
    assert sorted(each.seed for each in results_log.read_cells(path)) == list(range(60))


def test_damaged_cells_are_refused_with_the_file_named(tmp_path: Path) -> None:
    (tmp_path / "cells.jsonl").write_text('{"method": "ran')
    with pytest.raises(UserError, match=r"cells\.jsonl is damaged"):
        results_log.read_cells(tmp_path / "cells.jsonl")


def test_a_cell_under_other_settings_is_not_finished() -> None:
    known = [cell("random", 0, 0.5)]
    assert results_log.finished(known, "Made", "random", 0, SETTINGS) == known[0]
    assert results_log.finished(known, "Made", "random", 1, SETTINGS) is None
    assert results_log.finished(known, "Other", "random", 0, SETTINGS) is None
    assert results_log.finished(known, "Made", "random", 0, replace(SETTINGS, minutes=1.0)) is None


def test_rows_have_mean_and_spread_over_seeds() -> None:
    row, single = results_log.rows([cell("random", 0, 0.5), cell("pgl", 0, 0.8), cell("random", 1, 0.7)])
    assert (row.method, row.seeds) == ("random", (0, 1))
    assert row.dice == pytest.approx(0.6)
    assert row.spread == pytest.approx(0.02**0.5)
    assert single.spread is None


def test_the_table_shows_mean_spread_seeds_and_seconds() -> None:
    heading, line = report.study_lines([cell("pgl", 0, 0.5), cell("pgl", 1, 0.7)])
    assert heading == ["start", "structure", "mean", "seeds", "seconds"]
    assert line == ["PGL", "0.600", "0.600 ± 0.141", "0, 1", "90"]


@pytest.mark.parametrize(("method", "words"), [
    ("random", "random"),
    ("shapes", "shapes"),
    ("shapes+mae+pgl", "shapes, then MAE+PGL"),
    ("mae+pgl:none", "MAE+PGL, labels only"),
    ("shapes+supervoxels", "shapes, then supervoxels"),
])  # fmt: skip
def test_a_method_is_called_by_what_it_starts_from(method: str, words: str) -> None:
    assert report.title(method) == words


def wanted(out: Path, dataset_folder: Path, seeds: tuple[int, ...] = (0, 1)) -> demo.Demo:
    return demo.Demo(out=out, data=dataset_folder, methods=("random", "pgl"), seeds=seeds, settings=SETTINGS)


def quiet(*_: object) -> None:
    pass


def test_a_demo_that_was_stopped_goes_on_with_what_is_missing(dataset_folder: Path, tmp_path: Path) -> None:
    asked = wanted(tmp_path, dataset_folder)
    material = demo.prepare(asked, quiet, quiet)
    first = Engine()

    def stopped_in_the_third(job: Job) -> dict[str, Any]:
        if len(first.jobs) == 3:
            raise experiment.Stopped
        return first(job)

    assert len(demo.run(asked, material, stopped_in_the_third, quiet)) == 2
    second = Engine()
    done = demo.run(asked, material, second, quiet)
    assert [(each.method, each.seed) for each in done] == asked.cells
    assert len(second.jobs) == 3  # random and PGL of seed 1


@pytest.mark.parametrize(("seconds", "minutes"), [(0.025, 0.5), (0.051, 0.5), (0.06, 0.6), (0.25, 0.7)])
def test_a_row_takes_longer_where_a_step_does(
    seconds: float, minutes: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_seconds_of_a_step", lambda device: seconds)
    assert demo.minutes_of_a_row(tmp_path, 0.5, "cpu") == pytest.approx(minutes)


def test_a_step_is_measured_on_the_device() -> None:
    assert 0.001 < demo._seconds_of_a_step("cpu") < 60


def test_a_demo_that_goes_on_keeps_the_minutes_of_its_rows(tmp_path: Path) -> None:
    for minutes in (0.1, 0.65):  # the first was asked for by --minutes
        results_log.append(
            tmp_path / "cells.jsonl", cell("random", 0, 0.5, replace(SETTINGS, minutes=minutes))
        )
    assert demo.minutes_of_a_row(tmp_path, 0.5, "cpu") == 0.65


def test_predictions_are_exported_for_the_test_scans(dataset_folder: Path, tmp_path: Path) -> None:
    asked = wanted(tmp_path, dataset_folder, seeds=(0,))
    material = demo.prepare(asked, quiet, quiet)
    demo.export(asked, material, demo.run(asked, material, Engine(), quiet))
    image = nibabel.load(tmp_path / "predictions" / "pgl-seed0" / "case5.nii.gz")
    assert image.shape == (6, 5, 20)
    assert {path.parent.name for path in tmp_path.glob("predictions/*/*")} == {"random-seed0", "pgl-seed0"}


def test_without_a_data_set_phantoms_of_the_seed_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "PHANTOMS", 3)
    asked = replace(wanted(tmp_path, tmp_path, seeds=(1,)), data=None)
    project = demo.prepare(asked, quiet, quiet).project
    assert list(project.scans) == ["phantom_003", "phantom_004", "phantom_005"]
    assert [each.name for each in project.classes] == ["liver", "spleen", "kidneys", "spine", "lungs"]


def test_a_folder_with_a_demo_on_other_scans_is_refused(dataset_folder: Path, tmp_path: Path) -> None:
    demo.prepare(wanted(tmp_path / "out", dataset_folder), quiet, quiet)
    other = write_dataset(tmp_path / "other")
    with pytest.raises(UserError, match="choose another folder with --out"):
        demo.prepare(wanted(tmp_path / "out", other), quiet, quiet)
