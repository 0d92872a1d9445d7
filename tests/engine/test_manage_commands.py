"""The commands medssl scans and medssl runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from medssl.cli import app
from medssl.core.errors import UserError
from medssl.core.events import Done, Started, to_line
from medssl.core.json_files import write_json
from medssl.core.labels.classes import painted as painted_classes
from medssl.core.project.elsewhere import Elsewhere, elsewhere, set_elsewhere
from medssl.core.project.locks import training_lock
from medssl.core.project.project import Annotation, Project
from medssl.core.project.window_lock import window_lease
from project_parts import SHAPE, painted
from typer.testing import CliRunner, Result


@pytest.fixture
def project(small_project: Project, second_file: Path) -> Project:
    """Scans "scan", painted, and "other"; a finished run that has predicted "scan"."""
    small_project.add_scan(second_file)
    small_project.save_annotation("scan", Annotation(painted()))
    run = small_project.new_run("finetune", {"job": "finetune"}, "x")
    run.checkpoint.write_bytes(b"weights")
    write_json(run.folder / "card.json", {"step": 40, "elapsed_s": 75.0})
    log = [to_line(event) + "\n" for event in (Started(run.id), Done())]
    (run.folder / "events.jsonl").write_text("".join(log))
    small_project.save_prediction(run.id, "scan", np.zeros(SHAPE, np.uint8))
    return small_project


def medssl(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})


def row(result: Result, start: str) -> str:
    return next(" ".join(line.split()) for line in result.output.splitlines() if line.startswith(start))


def test_scans_are_listed_with_size_state_and_weight(project: Project) -> None:
    project.hold_out("other")
    result = medssl("scans", project.root)
    assert row(result, "scan ").startswith("scan voxels mm")
    assert "scan 10 x 9 x 6 1.5 x 2 x 4 MR annotated" in " ".join(result.output.split())
    assert "held out" in row(result, "other") and row(result, "other").endswith("kB")
    assert "2 scans, " in row(result, str(project.root)) and " kB on the disk." in result.output


def test_a_scan_is_renamed_and_then_answers_to_both_names(project: Project) -> None:
    result = medssl("scans", project.root, "--rename", "scan", "Patient 7")
    assert "Renamed scan to Patient 7; its id is still scan." in result.output
    assert row(result, "Patient 7 (scan)")
    assert "Patient 7 is annotated" not in medssl("classes", project.root).output
    result = medssl("scans", project.root, "--remove", "Patient 7")
    assert "Removed Patient 7; its annotation is kept in" in result.output
    assert list(Project.open(project.root).scans) == ["other"]


def test_several_scans_are_removed_only_if_all_are_known(project: Project) -> None:
    result = medssl("scans", project.root, "--remove", "scan", "--remove", "nosuch")
    assert isinstance(result.exception, UserError) and "'nosuch'" in str(result.exception)
    assert list(Project.open(project.root).scans) == ["scan", "other"]
    assert medssl("scans", project.root, "--remove", "scan", "--remove", "other").exit_code == 0
    assert not Project.open(project.root).scans


def test_nothing_is_removed_while_a_window_may_paint(project: Project) -> None:
    with window_lease(project.root):
        for arguments in (("scans", "--remove", "scan"), ("classes", "--remove", "one", "--into", "two")):
            result = medssl(arguments[0], project.root, *arguments[1:])
            assert isinstance(result.exception, UserError) and result.exception.code == "locked"
    assert "scan" in Project.open(project.root).scans and 1 in painted_classes(project)
    assert medssl("scans", project.root, "--remove", "scan").exit_code == 0


def test_runs_are_listed_with_how_far_they_came(project: Project) -> None:
    project.new_run("pretrain", {"job": "pretrain"}, "pgl")
    result = medssl("runs", project.root)
    assert row(result, "0001").startswith("0001-finetune-x 40 1:15 finished 1 ")
    assert row(result, "0002").startswith("0002-pretrain-pgl no weights ")


def test_runs_are_deleted_by_number_or_id_the_later_ones_first(project: Project) -> None:
    later = project.new_run("finetune", {"job": "finetune", "weights": "0001-finetune-x"}, "x")
    later.checkpoint.touch()
    refused = medssl("runs", project.root, "--delete", 1)
    assert isinstance(refused.exception, UserError) and later.id in str(refused.exception)
    result = medssl("runs", project.root, "--delete", 1, "--delete", later.id)
    assert result.exit_code == 0 and result.output.index(later.id) < result.output.index("0001")
    assert Project.open(project.root).runs() == []


@pytest.mark.parametrize("run", ["shapes", "7", "last", ".."])
def test_what_is_no_run_of_the_project_cannot_be_deleted(project: Project, run: str) -> None:
    result = medssl("runs", project.root, "--delete", run)
    assert isinstance(result.exception, UserError) and len(project.runs()) == 1


@pytest.mark.parametrize("damaged", [False, True])
def test_a_run_of_a_host_that_stays_away_is_taken_back(project: Project, damaged: bool) -> None:
    run = project.run("0001-finetune-x")
    refused = medssl("runs", project.root, "--release", 1)
    assert isinstance(refused.exception, UserError) and refused.exception.code == "not-elsewhere"
    set_elsewhere(run, Elsewhere("gpu1", "0" * 32))
    if damaged:
        (run.folder / "remote.json").write_text("{")
    else:
        refused = medssl("runs", project.root, "--delete", 1)
        assert f"medssl runs {project.root} --release {run.id}" in str(refused.exception)
    with training_lock(run.folder):  # a relay holds it as long as it is connected
        refused = medssl("runs", project.root, "--release", 1)
    assert isinstance(refused.exception, UserError) and refused.exception.code == "locked"
    result = medssl("runs", project.root, "--release", 1)
    assert "Released 0001-finetune-x." in result.output
    assert row(result, "0001").startswith("0001-finetune-x 40 1:15 finished 1 ") and elsewhere(run) is None
    assert medssl("runs", project.root, "--delete", 1).exit_code == 0


def test_a_record_that_cannot_be_deleted_is_one_sentence(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    set_elsewhere(project.run("0001-finetune-x"), Elsewhere("gpu1", "0" * 32))
    monkeypatch.setattr(Path, "unlink", refuse)
    refused = medssl("runs", project.root, "--release", 1)
    assert isinstance(refused.exception, UserError) and refused.exception.code == "not-writable"


def test_weights_stay_that_a_run_elsewhere_began_from(project: Project) -> None:
    other = project.new_run("finetune", {"job": "finetune", "weights": "0001-finetune-x"}, "x")
    set_elsewhere(other, Elsewhere("gpu1", "0" * 32))  # its first checkpoint has not come back
    refused = medssl("runs", project.root, "--delete", 1)
    assert isinstance(refused.exception, UserError) and refused.exception.code == "needed"
