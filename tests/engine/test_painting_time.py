"""benchmarks/painting_time.py: ways to paint a small scan, and one run with a real training."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import few_slices_data
import numpy as np
import painting_time
import pytest
from made_dataset import write_dataset
from medssl.benchmarking.mouse_painting import Effort, paint
from medssl.benchmarking.results_log import append_records
from medssl.core.labels.metrics import dice
from painting_ways import BY_HAND, Case, Curve, User, thick, with_proposals


@pytest.fixture(scope="module")
def case() -> Case:
    """A scan with a bent tube of class 2, and a ball of class 5 in a part of it."""
    labels = np.zeros((28, 40, 44), np.uint8)
    rows, columns = np.indices(labels.shape[1:])
    for index in range(3, 25):
        tube = np.hypot(rows - 14 - 0.4 * index, columns - 20 - 6 * np.sin(np.pi * index / 21)) < 6
        labels[index][tube] = 2
        labels[index][np.hypot(rows - 8, columns - 34) ** 2 < 36 - (index - 12) ** 2] = 5
    scan = labels / 2 + np.random.default_rng(0).normal(0, 0.1, labels.shape)
    return Case(Path("tube.nii.gz"), scan.astype(np.float32), labels, (2, 5), (3.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def curves(case: Case) -> dict[str, Curve]:
    """What each way by hand does to the end."""
    return {way: painted(case) for way, painted in BY_HAND.items()}


def seconds_to(curve: Curve, target: float) -> float:
    return next(effort.seconds for effort, reached in curve if reached >= target)


@pytest.mark.parametrize("way", BY_HAND)
def test_each_way_ends_with_the_reference_and_takes_ever_longer(curves: dict[str, Curve], way: str) -> None:
    assert curves[way][-1][1] == 1.0
    assert (np.diff([effort.seconds for effort, _ in curves[way]]) > 0).all()


def test_a_guided_fill_is_there_first(curves: dict[str, Curve]) -> None:
    brush, shapes, guided = (seconds_to(curve, 0.8) for curve in curves.values())
    assert guided < shapes < brush


@pytest.mark.parametrize("way", BY_HAND)
def test_somebody_content_with_less_stops_there(case: Case, curves: dict[str, Curve], way: str) -> None:
    content = BY_HAND[way](replace(case, until=0.9))
    assert content == curves[way][: len(content)]
    assert content[-2][1] < 0.9 <= content[-1][1] < 1


def test_dice_is_that_of_the_whole_scan(case: Case) -> None:
    user = User(case)
    user.paint_whole(case.first_slices, Effort())
    user.interpolate(guided=False)
    expected = dice(user.shown, case.labels, case.classes).values()
    assert user.dice == pytest.approx(np.mean(list(expected)))
    assert 0.3 < user.dice < 1


def test_interpolating_around_a_slice_does_what_interpolating_all_does(case: Case) -> None:
    user = User(case)
    user.paint_whole(case.first_slices, Effort())
    user.interpolate(guided=True)
    before = user.shown.copy()
    user.complete_slice(12, case.labels[12], Effort())
    changed = user.interpolate(guided=True, around=12)
    shown = user.shown.copy()
    user.interpolate(guided=True)
    assert np.array_equal(user.shown, shown)
    others = np.setdiff1d(np.arange(len(shown)), changed)
    assert np.array_equal(shown[others], before[others])


def test_a_right_proposal_costs_looks_and_nothing_else(case: Case) -> None:
    curve = with_proposals(case, case.labels, ())
    assert curve == [(Effort(clicks=1), 1.0)]


def test_proposals_are_corrected_the_worst_first(case: Case) -> None:
    prediction = case.labels.copy()
    prediction[10] = 0
    prediction[15, :4, :4] = 2
    prediction[27, 20, 20] = 5
    (_, start), *corrected = with_proposals(case, prediction, ())
    assert start < corrected[0][1] < corrected[1][1] < corrected[2][1] == 1.0
    assert len(corrected) == 3
    looked = 23  # slices with a structure or a proposal
    assert corrected[-1][0].looks == looked + 3


def test_a_proposal_with_too_many_mistakes_is_not_accepted(case: Case) -> None:
    prediction = case.labels.copy()
    prediction[10] = 2 * (np.random.default_rng(0).random(prediction[10].shape) < 0.2)
    prediction[26] = prediction[10]
    (start, _), *corrected = with_proposals(case, prediction, ())
    review = Effort(looks=23, keys=23)  # of the slices with a structure or a proposal
    _, anew = paint(np.zeros_like(prediction[10]), case.labels[10], case.spacing_mm[1:])
    both = start + review + anew + Effort(clicks=2, looks=2, keys=2)  # one is painted, one left empty
    assert len(corrected) == 2
    assert corrected[-1][0].seconds == pytest.approx(both.seconds)
    assert corrected[-1][1] == 1.0


def test_slices_that_were_painted_keep_their_labels_beside_a_proposal(case: Case) -> None:
    curve = with_proposals(case, np.zeros_like(case.labels), case.first_slices)
    painted = len(case.first_slices)
    assert curve[painted][1] == curve[painted - 1][1] > 0


def test_thin_mistakes_are_left_for_later() -> None:
    wrong = np.zeros((8, 8), bool)
    wrong[1, 1:6] = True
    wrong[4:6, 4:6] = wrong[5, 6:] = True
    expected = wrong.copy()
    expected[1] = False
    assert np.array_equal(thick(wrong), expected)


def test_classes_that_leave_the_scan_are_not_painted(tmp_path: Path) -> None:
    import nibabel

    labels = np.zeros((6, 5, 20), np.uint8)
    labels[1:3, 1:3, 4:9] = 1
    labels[3:5, 1:3, 9:] = 2
    for part in ("imagesTr", "labelsTr"):
        (tmp_path / part).mkdir()
        nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), tmp_path / part / "a.nii.gz")
    read = Case.read(tmp_path / "imagesTr" / "a.nii.gz")
    assert (read.name, read.classes) == ("a", (1,))
    assert set(np.unique(read.labels)) == {0, 1}


def made_line(way: str, scan: str, seconds: dict[str, float], **changes: Any) -> dict[str, Any]:
    """A line of a user who only draws along outlines."""
    machine = {"cpu": "a CPU", "gpu": None, "torch": "2", "commit": "abc1234"}
    return {
        "dataset": "made", "scan": scan, "way": way, "seed": 0, "minutes": 1.0, "until": 1.0,
        "machine": machine, "date": "29 November 2026", "waited_s": 0, "slices": [5, 20], "classes": 1,
        "reached": {target: asdict(Effort(traced_s=value)) for target, value in seconds.items()}, **changes,
    }  # fmt: skip


def drawn(tmp_path: Path, *lines: dict[str, Any]) -> str:
    append_records(tmp_path / "lines", lines)
    return painting_time.draw(tmp_path / "lines", tmp_path / "page.md")


def test_the_page_of_an_unfinished_run_has_what_is_there(tmp_path: Path) -> None:
    """No scan has all ways, one has not reached 0.9, and nobody has waited for a training."""
    page = drawn(
        tmp_path,
        made_line("brush alone", "a", {"0.5": 100, "0.9": 200}),
        made_line("guided fill", "a", {"0.5": 40}),
        made_line("guided fill", "b", {"0.5": 60, "0.9": 90}),
    )
    assert "| 0.5 | 100 (1.00, 1 of 2 scans) | 50 (0.40) |" in page
    assert "| 0.9 | 200 (1.00, 1 of 2 scans) | 90 (1 of 2 scans) |" in page
    assert "| b | – | 90 |" in page and "of waiting" not in page


def test_each_table_has_lines_of_one_setting_and_counts_the_commits(tmp_path: Path) -> None:
    commits = [{"cpu": "a CPU", "gpu": None, "torch": "2", "commit": commit} for commit in ("one", "two")]
    page = drawn(
        tmp_path,
        *(made_line("brush alone", scan, {"0.9": 10}, machine=commits[scan == "c"]) for scan in "abc"),
        made_line("brush alone", "a", {"0.5": 10}, until=0.5),
    )
    assert "3 lines, 29 November 2026; a CPU, torch 2, 1 thread; commit one (2 lines), two (1 line)." in page
    assert page.count("## made") == 2 and "--until 0.5" in page


@pytest.mark.timeout(300)
def test_a_run_paints_each_scan_in_each_way_once(tmp_path: Path) -> None:
    write_dataset(tmp_path / few_slices_data.DATASETS["hippocampus"].folder, contrast=6.0, scale=6)
    options = argparse.Namespace(
        data=tmp_path,
        datasets="hippocampus",
        minutes=0.05,
        until=1.0,
        work=tmp_path / "work",
        out=tmp_path / "lines",
    )
    painting_time.run(options)
    written = options.out.read_text()
    lines = [json.loads(line) for line in written.splitlines()]
    assert [line["way"] for line in lines] == list(painting_time.WAYS)
    for line in lines:
        assert list(line["reached"]) == ["0.5", "0.6", "0.7", "0.8", "0.85", "0.9", "0.95", "0.98", "1"]
        assert (line["waited_s"] > 0) == (line["way"] in ("proposals", "next scan"))
    painting_time.run(options)
    assert options.out.read_text() == written, "a second run finds nothing to do"
    assert painting_time.key_of(lines[0]) == ("hippocampus", 0.05, 1.0, 0)

    page = painting_time.draw(options.out, tmp_path / "page.md")
    brush, guided = (painting_time.seconds(lines[number], "0.9") for number in (0, 2))
    assert f"| 0.9 | {brush:.0f} (1.00) |" in page
    assert f" {guided:.0f} ({guided / brush:.2f}) |" in page
    assert painting_time.seconds(lines[0], "0.9", 2.0) == pytest.approx(
        brush + lines[0]["reached"]["0.9"]["traced_s"]
    )
