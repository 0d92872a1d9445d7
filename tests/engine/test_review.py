"""The review queue: what a network expects of its predictions, what is accepted, and where that is said."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from medssl.cli import app
from medssl.core.errors import UserError
from medssl.core.events import Preview, Progress
from medssl.core.export.files import export_scan, write_table
from medssl.core.export.provenance import write_recorded
from medssl.core.jobs import PredictJob
from medssl.core.project.project import Project
from medssl.core.project.review import accept, is_accepted, review_queue
from project_parts import code_of, painted
from small import Events, make_project, plan, run
from test_predict import predictor
from typer.testing import CliRunner


@pytest.fixture
def queue(small_project: Project, second_file: Path) -> str:
    """A run that expects more of its prediction of the first scan than of the second."""
    small_project.add_scan(second_file)
    made = small_project.new_run("finetune", {"job": "finetune"}, "from-random")
    made.checkpoint.write_bytes(b"weights")
    small_project.save_prediction(made.id, "scan", painted(), expected_dice={1: 0.9, 2: 0.7})
    empty = np.zeros(small_project.scans["other"].geometry.shape_zyx, np.uint8)
    small_project.save_prediction(made.id, "other", empty, expected_dice={1: 0.4, 2: 0.0})
    return made.id


def test_the_worst_comes_first_what_is_accepted_last(small_project: Project, queue: str) -> None:
    first, last = review_queue(small_project, queue)
    assert (first.scan, first.quality) == ("other", 0.2)
    assert (last.scan, last.expected_dice) == ("scan", {1: 0.9, 2: 0.7})
    accept(small_project, queue, "other")
    assert [(item.scan, item.accepted) for item in review_queue(small_project, queue)] == [
        ("scan", False), ("other", True)
    ]  # fmt: skip
    accept(small_project, queue, "other", False)
    assert review_queue(small_project, queue)[0].scan == "other"


def test_to_accept_changes_no_annotation(small_project: Project, queue: str) -> None:
    accept(small_project, queue, "scan")
    assert small_project.annotated(held_out=True) == () and small_project.annotation("scan") is None


def test_other_weights_make_expected_dice_and_acceptance_void(small_project: Project, queue: str) -> None:
    accept(small_project, queue, "scan")
    small_project.run(queue).checkpoint.write_bytes(b"trained further")
    assert small_project.expected_dice(queue, "scan") is None
    assert not is_accepted(small_project, queue, "scan") and review_queue(small_project, queue) == []
    with pytest.raises(UserError, match="segment it first") as error:
        accept(small_project, queue, "scan")
    assert code_of(error) == "nothing-yet"


def test_a_prediction_of_a_former_version_has_no_quality_and_comes_after_the_others(
    small_project: Project, queue: str
) -> None:
    empty = np.zeros(small_project.scans["other"].geometry.shape_zyx, np.uint8)
    small_project.save_prediction(queue, "other", empty)
    assert [item.scan for item in review_queue(small_project, queue)] == ["scan", "other"]
    assert small_project.expected_dice(queue, "other") is None


def test_the_network_says_what_it_expects_and_only_missing_scans_are_segmented(tmp_path: Path) -> None:
    project = make_project(tmp_path, seeds=(0, 1, 2))
    weights = predictor(project, plan(2))
    first, *others = project.scans
    job = PredictJob(project=str(project.root), weights=weights, only_missing=True)
    run(PredictJob(project=str(project.root), weights=weights, scans=(first,)))
    expected = project.expected_dice(weights, first)
    assert expected is not None and set(expected) == {1} and 0 <= expected[1] <= 1
    events = Events()
    assert run(job, events)["scans"] == others
    assert [event.scan for event in events.of(Preview)] == others
    fractions = [event.fraction for event in events.of(Progress) if event.phase == "prediction"]
    assert fractions == [0, 0.5, 1] and events.of(Progress)[-1].eta_s == 0
    assert run(job)["scans"] == []


def test_probabilities_are_saved_with_what_is_expected(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    weights = predictor(project, plan(2))
    values = []
    for probabilities in (False, True):
        run(PredictJob(project=str(project.root), weights=weights, probabilities=probabilities))
        values.append([project.expected_dice(weights, scan) for scan in project.scans])
    assert values[0] == values[1] and None not in values[0]


def test_the_table_of_an_export_says_what_is_accepted(
    small_project: Project, queue: str, tmp_path: Path
) -> None:
    accept(small_project, queue, "scan")
    table = tmp_path / "volumes.csv"
    rows = [
        volume
        for scan in ("scan", "other")
        for volume in export_scan(small_project, scan, queue, tmp_path / "out" / f"{scan}.nii.gz")
    ]
    write_table(table, rows)
    with table.open(encoding="utf-8", newline="") as file:
        accepted = {row["scan"]: row["accepted"] for row in csv.DictReader(file)}
    assert accepted == {"scan": "yes", "other": ""}


def test_rows_of_a_table_from_before_there_was_a_review_are_kept(
    small_project: Project, queue: str, tmp_path: Path
) -> None:
    table = tmp_path / "volumes.csv"
    write_recorded(table, b"scan,class,voxels,ml\r\nold,one,3,0.003000\r\n", {})
    write_table(table, export_scan(small_project, "scan", queue, tmp_path / "out" / "scan.nii.gz"))
    with table.open(encoding="utf-8", newline="") as file:
        first, *others = list(csv.reader(file))[1:]
    assert first == ["old", "one", "3", "0.003000", ""] and {len(row) for row in others} == {5}


def test_the_command_lists_the_worst_first_and_accepts(small_project: Project, queue: str) -> None:
    result = CliRunner().invoke(app, ["review", str(small_project.root), "--accept", "scan"])
    assert result.exit_code == 0, result.output
    assert is_accepted(small_project, queue, "scan")
    rows = [line for line in result.stdout.splitlines() if "0.200" in line or "0.800" in line]
    assert "other" in rows[0] and "accepted" not in rows[0]
    assert "scan" in rows[1] and "accepted" in rows[1]


def test_a_damaged_remark_is_reviewed_again(small_project: Project, queue: str) -> None:
    accept(small_project, queue, "scan")
    path = small_project.prediction_file(queue, "scan").with_suffix(".accepted.json")
    assert json.loads(path.read_text())
    path.write_text("{")
    assert not is_accepted(small_project, queue, "scan")


def test_an_unknown_scan_does_not_keep_the_command_from_accepting_the_others(
    small_project: Project, queue: str
) -> None:
    result = CliRunner().invoke(
        app, ["review", str(small_project.root), "--accept", "nosuch", "--accept", "scan"]
    )
    assert result.exit_code == 1 and "has no scan nosuch" in result.stderr
    assert is_accepted(small_project, queue, "scan") and "0.800" in result.stdout
