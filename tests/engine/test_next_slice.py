"""benchmarks/next_slice.py on a tiny data set, with a stand-in engine that suggests fixed slices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import few_slices
import next_slice
import pytest
from made_dataset import write_dataset
from medssl.benchmarking import results_log
from medssl.benchmarking.results_log import Cell
from medssl.core.errors import UserError
from medssl.core.jobs import FinetuneJob, Job, SuggestJob
from medssl.core.project.project import Project
from stand_in import Engine

HELD_OUT = {"case0", "case5"}


class Suggesting(Engine):
    """Suggests slice 10 of the scans of which nothing is painted yet."""

    def __call__(self, job: Job) -> dict[str, Any]:
        if not isinstance(job, SuggestJob):
            return super().__call__(job)
        self.jobs.append(job)
        project = Project.open(Path(job.project))
        free = [scan for scan in project.scans if scan not in (*project.annotated(), *HELD_OUT)]
        found = [{"scan": scan, "axis": 0, "index": 10, "reason": "New."} for scan in free[: job.count]]
        return {"run": job.weights, "suggestions": found, "stopped": False}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Suggesting:
    stand_in = Suggesting()
    monkeypatch.setattr(next_slice, "worker", lambda screen, should_stop: stand_in)
    return stand_in


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    write_dataset(tmp_path / "data" / few_slices.DATASETS["hippocampus"].folder)
    places = ["--data", tmp_path / "data", "--work", tmp_path / "work", "--out", tmp_path / "lines.jsonl"]
    rest = ["--seeds", "0", "--slices", "6", "--minutes", "10", "--device", "cpu"]
    return ["run", *map(str, places), *rest]


def finished(words: list[str]) -> dict[str, Cell]:
    options = next_slice.arguments().parse_args(words)
    next_slice.run(options)
    return {cell.method: cell for cell in results_log.read_cells(options.out)}


def test_every_arm_paints_as_many_slices_and_trains_as_long(words: list[str], engine: Suggesting) -> None:
    lines = finished(words)
    assert set(lines) == set(next_slice.ARMS)
    for cell in lines.values():
        assert sum(map(len, cell.annotated.values())) == 6
        assert not HELD_OUT & set(cell.annotated)
        assert set(cell.dice_of_scan) == HELD_OUT
    minutes: list[float] = [job.minutes for job in engine.jobs if isinstance(job, FinetuneJob)]
    assert minutes == pytest.approx([1.5, 1.5, 10.0, 10.0, 10.0])


def test_the_control_paints_on_as_many_scans_as_were_suggested(words: list[str], engine: Suggesting) -> None:
    lines = finished(words)
    assert len(lines["suggested"].annotated) == len(lines["spread"].annotated) == 4
    assert len(lines["even"].annotated) == 2
    depths = sorted(index for indices in lines["spread"].annotated.values() for index in indices)
    assert len(set(depths)) == 6, "its slices lie at depths of their own"


def test_each_round_asks_the_network_that_was_just_trained(words: list[str], engine: Suggesting) -> None:
    runs = finished(words)["suggested"].runs
    asked = [job for job in engine.jobs if isinstance(job, SuggestJob)]
    assert [job.weights for job in asked] == [runs["round 1"], runs["round 2"]]
    assert [job.count for job in asked] == [1, 1]


def test_what_is_finished_is_not_run_again(words: list[str], engine: Suggesting) -> None:
    finished(words)
    number = len(engine.jobs)
    finished(words)
    assert len(engine.jobs) == number
    finished([*words, "--rounds", "1"])
    assert len(engine.jobs) > number


def test_the_table_has_every_arm(words: list[str], engine: Suggesting, tmp_path: Path) -> None:
    finished(words)
    page = tmp_path / "page.md"
    text = next_slice.draw(tmp_path / "lines.jsonl", page)
    assert page.read_text() == text
    for arm, scans in (("suggested", 4), ("spread", 4), ("even", 2)):
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {next_slice.ARMS[arm]}")]
        assert f"| {scans}.0 |" in line


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (["--start", "6"], "bad-setting"),
        (["--round-share", "0"], "bad-setting"),
        (["--dataset", "x"], "no-dataset"),
    ],
)
def test_what_cannot_be_compared_is_refused(words: list[str], more: list[str], code: str) -> None:
    with pytest.raises(UserError) as error:
        next_slice.protocol_of(next_slice.arguments().parse_args([*words, *more]))
    assert error.value.code == code and str(error.value).endswith(".")
