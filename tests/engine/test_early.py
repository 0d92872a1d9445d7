"""The grid of benchmarks/early.py and its page, with a stand-in engine, and once with the real one."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import early
import early_page
import few_slices
import numpy as np
import pytest
from early import early_grid
from few_slices import Grid
from few_slices_data import Source, open_dataset
from made_dataset import write_dataset
from medssl.benchmarking import protocol, results_log
from medssl.benchmarking.protocol import ALL, Early, Material
from medssl.benchmarking.results_log import Failure
from medssl.core.errors import UserError
from medssl.core.jobs import FinetuneJob, Job, PretrainJob
from medssl.core.project.project import Project
from medssl.tasks.inference.predict import Trained
from medssl.tasks.training.snapshots import snapshot_file
from stand_in import Engine

PART = {0.0: 7, 20.0: 9, 60.0: 10, 240.0: 14}
"""Of the structure in slices 6..13 so much is found after so many seconds: up to this slice."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two data sets of seven scans each."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("hippocampus", "lung"):
        write_dataset(folder / early.SETS[name].folder)
    return folder


class OnTheWay(Engine):
    """Keeps what a training is asked to keep on its way, as far as its file's name."""

    def __call__(self, job: Job) -> dict[str, Any]:
        result = super().__call__(job)
        run = Project.open(Path(job.project)).run(result["run"])
        for seconds in getattr(job, "settings", {}).get("snapshots_s", ()):
            snapshot_file(run.checkpoint, seconds).write_bytes(b"weights")
        return result


class StepBatch:
    """Stands in for inference.predict.Trained."""

    def __init__(self, seconds: float) -> None:
        self.end = PART[seconds]
        self.card = {"step": int(2 * seconds), "elapsed_s": seconds + 0.123}

    @classmethod
    def of(cls, path: Path, name: str, device: str) -> StepBatch:
        assert path.exists()
        return cls(float(path.stem.removeprefix("snapshot-")))

    def labels(self, project: Project, scan: str) -> np.ndarray:
        found = np.zeros(project.scans[scan].geometry.shape_zyx, np.uint8)
        found[6 : self.end, 1:4, 1:4] = 1
        return found


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> OnTheWay:
    stand_in = OnTheWay()
    monkeypatch.setattr(few_slices, "worker", lambda screen, should_stop: stand_in)
    monkeypatch.setattr(Trained, "of", StepBatch.of)
    return stand_in


def grid(data: Path, tmp_path: Path, *more: str) -> Grid:
    places = ["--data", str(data), "--work", str(tmp_path / "work"), "--out", str(tmp_path / "lines")]
    usual = ["--datasets", "hippocampus", "--methods", "random", "--seeds", "0", "--slices", "3"]
    return early_grid(early.arguments().parse_args([*places, "--device", "cpu", *usual, *more]))


def opened(data: Path, tmp_path: Path, name: str = "hippocampus") -> Material:
    return open_dataset(data, name, tmp_path / "work", lambda event: None, early.SETS[name])


def line(tmp_path: Path) -> dict[str, Any]:
    """The only one."""
    (text,) = (tmp_path / "lines").read_text().splitlines()
    read: dict[str, Any] = json.loads(text)
    return read


def test_a_fine_tuning_is_judged_on_its_way(data: Path, tmp_path: Path, engine: OnTheWay) -> None:
    few_slices.run(grid(data, tmp_path, "--methods", "shapes:first,shapes"))
    (job,) = engine.jobs
    assert (job.weights, job.minutes, job.predict_scans) == ("shapes", 4.0, ())
    assert job.settings == {"snapshots_s": [0.0, 20.0, 60.0, 240.0]}
    made = line(tmp_path)
    found = {mark: each["dice"] for mark, each in made["after_s"].items()}
    assert found == {"0": 0.2222, "20": 0.5455, "60": 0.6667, "240": 1.0}
    assert made["after_s"]["60"]["dice_of_class"] == {"structure": 0.6667}
    assert made["after_s"]["60"]["dice_of_scan"] == {"case0": 0.6667, "case5": 0.6667}
    assert (made["after_s"]["60"]["step"], made["after_s"]["60"]["elapsed_s"]) == (120, 60.1)
    assert (made["dice"], made["seed"], made["judged_on"]) == (1.0, 0, "test")
    assert made["settings"]["marks_s"] == [0.0, 20.0, 60.0, 240.0]
    assert made["settings"]["pretrain_minutes"] == 0
    assert {"cpu", "torch", "commit"} <= set(made["machine"])
    run = Project.open(tmp_path / "work" / "hippocampus").runs()[0]
    assert not list(run.folder.glob("*.safetensors"))
    few_slices.run(grid(data, tmp_path, "--methods", "shapes"))
    assert len(engine.jobs) == 1


def test_pretraining_on_the_scans_comes_before_and_may_start_from_the_shipped_weights(
    data: Path, tmp_path: Path, engine: OnTheWay
) -> None:
    few_slices.run(
        grid(data, tmp_path, "--methods", "shapes+mae+pgl,mae+pgl", "--pretrain-recipe", "paper")
    )  # fmt: skip
    before = [job for job in engine.jobs if isinstance(job, PretrainJob)]
    assert [(job.method, job.weights, job.minutes, job.recipe) for job in before] == [
        ("mae+pgl", "shapes", 10.0, "paper"), ("mae+pgl", "random", 10.0, "paper")
    ]  # fmt: skip
    after = [job for job in engine.jobs if isinstance(job, FinetuneJob)]
    assert [job.minutes for job in after] == [4.0, 4.0]


def test_one_slice_lies_on_one_scan_and_more_on_two(data: Path, tmp_path: Path) -> None:
    material = opened(data, tmp_path)
    counts = {}
    for slices in (1, 2, 3, 5, 10):
        painted = protocol.annotate_for(material, 3, slices)
        assert set(material.project.annotated()) == set(painted) <= set(protocol.draw_scans(material, 3))
        counts[slices] = [len(chosen) for chosen in painted.values()]
    assert counts == {1: [1], 2: [1, 1], 3: [2, 1], 5: [3, 2], 10: [5, 5]}


@pytest.mark.parametrize("judge", ["test", "validation"])
def test_the_ceiling_is_every_slice_of_every_scan_that_is_not_judged(
    data: Path, tmp_path: Path, judge: Any
) -> None:
    material = opened(data, tmp_path)
    settings = Early(ALL, 4.0, "cpu", judge, marks_s=(60.0,))
    given = protocol.assign(material, "random", 0, settings)
    few = protocol.assign(material, "random", 0, replace(settings, slices=3))
    assert given.judged == few.judged
    given = protocol.assign(material, "random", 0, settings)
    assert set(given.annotated) == set(material.rest) - set(given.judged)
    assert given.scans == tuple(given.judged)
    for scan in given.annotated:
        annotation = material.project.annotation(scan)
        assert annotation is not None and len(annotation.complete) == 20


def test_a_ceilings_line_names_no_slices(data: Path, tmp_path: Path, engine: OnTheWay) -> None:
    few_slices.run(grid(data, tmp_path, "--slices", "all"))
    made = line(tmp_path)
    assert made["annotated"] == {f"case{number}": [] for number in (1, 2, 3, 4, 6)}
    assert (made["settings"]["slices"], made["dice"], made["dice_on_painted_scans"]) == (ALL, 1.0, None)


def test_fewer_scans_may_be_judged_than_are_held_out(data: Path, tmp_path: Path, engine: OnTheWay) -> None:
    few_slices.run(grid(data, tmp_path, "--max-judged", "1"))
    made = line(tmp_path)
    assert list(made["dice_of_scan"]) == ["case0"]
    assert made["settings"]["max_judged"] == 1
    project = Project.open(tmp_path / "work" / "hippocampus")
    assert {scan.id for scan in project.scans.values() if scan.held_out} == {"case0", "case5"}


def test_of_the_lung_scans_three_of_five_are_test_scans(data: Path, tmp_path: Path) -> None:
    assert list(opened(data, tmp_path, "lung").references) == ["case0", "case2", "case4", "case6"]
    assert protocol.split(range(5), early.SETS["lung"].test_every) == ((0, 2, 4), (1, 3))


def test_phantoms_are_made_where_they_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = Source("made", test_every=2, phantoms=range(100, 102))
    for _ in range(2):
        material = open_dataset(tmp_path, "phantoms", tmp_path / "work", lambda event: None, few)
        assert list(material.project.scans) == ["phantom_100", "phantom_101"]
        monkeypatch.setattr("medssl.core.phantom.write_dataset", None)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--methods", "shapes+mea"], "shapes"),
        (["--methods", "forest"], "forest"),
        (["--marks", "0"], "--marks"),
        (["--datasets", "liver"], "liver"),
    ],
)
def test_what_is_misspelt_is_refused_before_anything_runs(
    data: Path, tmp_path: Path, words: list[str], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        grid(data, tmp_path, *words)


def test_differences_are_taken_draw_by_draw(data: Path, tmp_path: Path, engine: OnTheWay) -> None:
    few_slices.run(
        grid(data, tmp_path, "--methods", "random,shapes", "--seeds", "0,1,2", "--slices", "3,all")
    )
    gains = {0: 0.1, 1: 0.2, 2: 0.3}
    for cell in results_log.read_cells(tmp_path / "lines"):
        if (cell.method, cell.seed) == ("random", 2) and cell.settings["slices"] == ALL:
            continue  # this draw has no line yet
        base = 0.3 + 0.1 * cell.seed
        gain = gains[cell.seed] if cell.method == "shapes" else 0.0
        after = {mark: {**each, "dice": base + gain} for mark, each in cell.after_s.items()}
        after["0"] = {**after["0"], "dice": base - 0.05}
        results_log.append(tmp_path / "changed", replace(cell, after_s=after))
    asked = replace(grid(data, tmp_path).settings, slices=3).concerning("mae+pgl")
    failed = Failure("hippocampus", "mae+pgl", 4, asdict(asked), "No.", "2026-11-28T09:00:00+00:00")
    results_log.append(tmp_path / "changed", failed)
    page = tmp_path / "page.md"
    page.write_text(f"# Ours\n\nWhat it says.\n{early_page.MARK}\nold")
    made = early_page.draw([tmp_path / "changed"], page, list(early.SETS), 3)
    text = page.read_text()
    assert text.startswith("# Ours\n\nWhat it says.\n") and "old" not in text
    assert "| start | slices | 0 s | 20 s | 60 s | 240 s | over random, 20 s |" in text
    mean, over = "0.600 ± 0.200", "**+0.200** ± 0.100"
    assert f"| shapes | 3 | 0.350 ± 0.100 | {mean} | {mean} | {mean} | {over} | {over} | {over} | 3 |" in text
    alone = "**-0.050** ± 0.000"
    assert f"| shapes, first head alone | 3 | 0.350 ± 0.100 |  |  |  | {alone} | {alone} | {alone} |" in text
    assert f"| shapes | all | 0.350 ± 0.100 | {mean} | {mean} | {mean} | **+0.150** ± 0.071 (2) |" in text
    assert "- failed: MAE+PGL, 10 min, 3 slices: No." in text
    assert "- not run: random (1, 2, 5, 10); " in text and "nnU-Net 2d (1, 2, 3, 5, 10)" in text
    assert "## prostate\n\nNot run on its test scans." in text
    assert made == [page, tmp_path / "page.png"]
    assert made[1].stat().st_size > 10_000


@pytest.mark.timeout(300)
def test_a_real_training_is_judged_on_its_way(tmp_path: Path) -> None:
    write_dataset(tmp_path / early.SETS["hippocampus"].folder, contrast=6.0, scale=6)
    small = ["--set", "finetune.batch=2", "--set", "finetune.threads=1", "--set", "finetune.precision=fp32"]
    asked = grid(tmp_path, tmp_path, "--methods", "shapes", "--marks", "0,1,3", "--slices", "1,all", *small)
    few_slices.run(asked)
    one, every = results_log.read_cells(tmp_path / "lines")
    for cell in (one, every):
        assert list(cell.after_s) == ["0", "1", "3"]
        assert cell.after_s["3"]["dice"] == cell.dice
        assert cell.dice_of_scan == cell.after_s["3"]["dice_of_scan"]
        assert cell.seconds["finetune"] >= cell.after_s["3"]["elapsed_s"] >= 3
        assert cell.after_s["0"]["step"] == 0 < cell.after_s["3"]["step"]
        assert cell.notes["cores"] > 0
    assert every.dice > 0.5


@pytest.mark.skipif("MEDSSL_NNUNET_ENV" not in os.environ, reason="needs nnU-Net's environment")
@pytest.mark.timeout(1200)
def test_nnunet_is_judged_on_its_way(tmp_path: Path) -> None:
    write_dataset(tmp_path / early.SETS["hippocampus"].folder, contrast=6.0, scale=6)
    given = ["--nnunet-env", os.environ["MEDSSL_NNUNET_ENV"], "--no-mirroring", "--max-judged", "1"]
    few_slices.run(grid(tmp_path, tmp_path, "--methods", "nnunet_2d", "--marks", "0,5,15", *given))
    (cell,) = results_log.read_cells(tmp_path / "lines")
    assert list(cell.after_s) == ["5", "15"]
    assert cell.after_s["15"]["dice"] == cell.dice
    assert cell.seconds["finetune"] >= 15
