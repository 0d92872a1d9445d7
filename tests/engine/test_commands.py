"""The command line's own logic: choosing, drawing, stopping, errors in one sentence."""

from __future__ import annotations

import io
import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from medssl.__main__ import main
from medssl.cli import app
from medssl.cli.external import segmentation_path
from medssl.cli.methods import assignment
from medssl.cli.options import settings_from
from medssl.cli.selection import choose_resumable, choose_run, split_scans
from medssl.cli.terminal import Drawing, duration, stop_on_interrupt
from medssl.core import events, recipes, settings
from medssl.core.errors import UserError
from medssl.core.io.scan_file import ScanFile
from medssl.core.jobs import FinetuneJob, Job, PretrainJob
from medssl.core.json_files import write_json
from medssl.core.methods import ALL
from medssl.core.project.locks import training_lock
from medssl.core.project.project import LabelClass, Project, Run
from medssl.core.scalars import MEANINGS
from rich.console import Console
from typer.testing import CliRunner, Result

COMMANDS = (
    "view", "demo", "init", "scans", "classes", "pretrain", "finetune", "runs", "methods", "predict",
    "export", "features", "similarity", "evaluate", "review", "suggest", "run", "doctor",
)  # fmt: skip


def write_scan(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).normal(100, 20, (12, 10, 8)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 1.0, 3.0, 1.0])), path)
    return path


def medssl(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "medssl", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project of two scans with a pre-training run and two fine-tuning runs, the last without weights."""
    made = Project.create(tmp_path / "project")
    for index in range(2):
        made.add_scan(write_scan(tmp_path / f"scan{index}.nii.gz", seed=index))
    for kind in ("pretrain", "finetune", "finetune"):
        made.new_run(kind, {"job": kind}, kind)
    for run in made.runs()[:2]:
        run.checkpoint.touch()
    return made


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("command", COMMANDS)
def test_sentences_of_a_help_break_only_at_the_right_margin(
    command: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", width)  # typer reads TERMINAL_WIDTH once
    lines = CliRunner().invoke(app, [command, "--help"]).output.splitlines()
    prose = [line for line in lines if line.startswith(" ") and "Usage" not in line]
    for line, after in itertools.pairwise(prose):
        first = after.split(" ")[1] if after.strip() else ""
        assert not line.strip() or not first or len(line.rstrip()) + 1 + len(first) > width - 2, line


@pytest.mark.parametrize("arguments", [["methods"], ["pretrain", "--help"]])
def test_every_method_and_recipe_is_listed_with_what_it_is_for(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 300)
    lines = CliRunner().invoke(app, arguments).output.splitlines()
    for method, which, recipe in recipes.pretrainings():
        (line,) = [line for line in lines if recipe.purpose in line]
        assert re.search(rf"\b{re.escape(method)}\b.*\b{which}\b", line) and recipe.time in line


def test_the_commands_import_nothing_heavy() -> None:
    program = "import sys, medssl.cli; print({'torch', 'monai', 'numpy', 'nibabel'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "set()"


def test_tables_of_results_are_made_without_torch() -> None:
    program = "import sys, medssl.cli.tables; print({'torch', 'monai'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "set()"


@pytest.mark.parametrize(
    "arguments",
    [
        ("pretrain", "nowhere", "--resume", "last"),
        ("finetune", "nowhere"),
        ("predict", "nowhere"),
        ("export", "nowhere", "--out", "out"),
        ("features", "nowhere"),
        ("similarity", "nowhere", "scan", "1", "2", "3"),
        ("evaluate", "nowhere", "--labels", "labels"),
        ("review", "nowhere"),
        ("suggest", "nowhere"),
        ("demo", "--data", "nowhere"),
    ],
)
def test_an_error_is_one_sentence_that_names_the_place(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["medssl", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr().err.strip()
    assert end.value.code == 1
    assert "nowhere" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("arguments", [("init", "LONG", "x.nii"), ("predict", "project", "LONG")])
def test_a_name_that_no_file_can_have_is_one_sentence(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    arguments: tuple[str, ...],
) -> None:
    monkeypatch.chdir(project.root.parent)
    project.runs("finetune")[0].checkpoint.touch()
    given = [each.replace("LONG", "a" * 300) for each in arguments]
    monkeypatch.setattr(sys, "argv", ["medssl", *given])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr().err.strip().splitlines()
    assert end.value.code == 1 and "a" * 300 in said[-1] and "Traceback" not in said[0]


def test_ctrl_c_before_a_command_has_begun_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("medssl.cli.app", interrupted)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130 and capsys.readouterr().err == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
@pytest.mark.parametrize("arguments", [["--version"], ["methods"]])
def test_an_output_that_is_full_is_one_sentence(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123 - it is no file
        command = [sys.executable, "-m", "medssl", *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("The output could not be written") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_names_that_the_output_has_no_letters_for_are_printed(tmp_path: Path, encoding: str) -> None:
    project = Project.create(tmp_path / os.fsdecode(b"caf\xe9"), [LabelClass(1, "Leber ü 肝", "#ff0000")])
    command = [sys.executable, "-m", "medssl", "classes", str(project.root), "--rename", "1", "Milz ö 脾"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert b"Milz" in done.stdout and b"Traceback" not in done.stderr
    listed = subprocess.run([*command[:3], "runs", str(project.root)], env=environment, capture_output=True)
    assert listed.returncode == 0 and b"caf\xe9: " in listed.stdout  # the name itself, for the next program


def test_a_scan_is_not_both_held_out_and_used(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "a.nii.gz")
    options = ["--hold-out", "*", "--no-hold-out", "*"]
    result = CliRunner().invoke(app, ["init", str(tmp_path / "new"), str(scan), *options])
    assert isinstance(result.exception, UserError) and "give it once" in str(result.exception)
    assert not (tmp_path / "new").exists()


def test_init_adds_scans_holds_some_out_and_names_classes(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "test_b.nii.gz"):
        write_scan(tmp_path / "scans" / name, seed=len(name))
    folder = tmp_path / "project"
    result = CliRunner().invoke(
        app,
        ["init", str(folder), str(tmp_path / "scans"), "--classes", "liver, spleen", "--hold-out", "test_*"],
    )
    assert result.exit_code == 0, result.output
    made = Project.open(folder)
    assert [each.name for each in made.classes] == ["liver", "spleen"]
    assert {Path(scan.source).name: scan.held_out for scan in made.scans.values()} == {
        "a.nii.gz": False,
        "test_b.nii.gz": True,
    }


def test_init_twice_adds_to_the_project(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    for index in range(2):
        scan = write_scan(tmp_path / f"{index}.nii.gz", seed=index)
        CliRunner().invoke(app, ["init", str(folder), str(scan)])
    assert len(Project.open(folder).scans) == 2


def test_init_names_a_file_it_cannot_use_keeps_the_others_and_exits_with_1(tmp_path: Path) -> None:
    write_scan(tmp_path / "scans" / "good.nii.gz")
    (tmp_path / "scans" / "bad.nii.gz").write_bytes(b"nothing")
    result = medssl("init", tmp_path / "project", tmp_path / "scans")
    assert result.returncode == 1
    assert "bad.nii.gz" in result.stderr
    assert "Traceback" not in result.stderr
    assert len(Project.open(tmp_path / "project").scans) == 1


def test_a_missing_path_does_not_keep_init_from_adding_the_others(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "a.nii.gz")
    result = CliRunner().invoke(app, ["init", str(tmp_path / "project"), str(scan), str(tmp_path / "nosuch")])
    assert result.exit_code == 1 and "path that does not exist" in result.output.replace("\n", " ")
    assert list(Project.open(tmp_path / "project").scans) == ["a"]


@pytest.mark.parametrize(
    ("command", "option", "attribute"),
    [
        ("features", (), "scans"),
        ("export", ("--out", "out", "--weights", "none"), "scans"),
        ("finetune", ("--steps", "1"), "predict_scans"),
    ],
)
def test_an_unknown_scan_does_not_keep_a_command_from_the_others(
    project: Project, monkeypatch: pytest.MonkeyPatch, command: str, option: tuple[str, ...], attribute: str
) -> None:
    jobs: list[Job] = []

    def run_job(job: Job, *_: object) -> dict[str, Any]:
        jobs.append(job)
        return {"run": "0004", "stopped": False, "written": [], "refused": {}}

    monkeypatch.setattr("medssl.cli.terminal.run_job", run_job)
    monkeypatch.setattr("medssl.core.settings.check_job", lambda job: None)

    def medssl(*names: str) -> Result:
        named = [word for name in names for word in (*["--predict"] * (command == "finetune"), name)]
        return CliRunner().invoke(app, [command, str(project.root), *named, *option])

    known = next(iter(project.scans))
    result = medssl("nosuch", known)
    assert result.exit_code == 1 and not isinstance(result.exception, UserError), result.output
    assert "has no scan nosuch" in result.stderr and "Skipped 1;" in result.stderr
    assert [getattr(job, attribute) for job in jobs] == [(known,)]
    refused = medssl("nosuch", "neither")
    assert "has no scan nosuch" in refused.stderr and "has no scan neither" in str(refused.exception)
    assert len(jobs) == 1


@pytest.mark.parametrize("existed", [False, True])
@pytest.mark.parametrize("scan", ["nosuch", "bad.nii.gz"])
def test_init_without_a_usable_scan_makes_no_project(tmp_path: Path, scan: str, existed: bool) -> None:
    (tmp_path / "bad.nii.gz").write_bytes(b"nothing")
    if existed:
        (tmp_path / "project").mkdir()
    arguments = ["init", str(tmp_path / "project"), str(tmp_path / scan), "--classes", "liver"]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, UserError)
    left = list((tmp_path / "project").iterdir()) if existed else (tmp_path / "project").exists()
    assert not left


def test_init_checks_the_folder_of_labels_and_that_of_the_project_first(tmp_path: Path) -> None:
    scan = str(write_scan(tmp_path / "a.nii.gz"))
    nowhere = CliRunner().invoke(app, ["init", str(tmp_path / "new"), scan, "--labels", str(tmp_path / "no")])
    assert "no is not a folder" in str(nowhere.exception) and not (tmp_path / "new").exists()
    forgotten = CliRunner().invoke(app, ["init", scan])
    assert f"{scan} is a file; give the folder of the project first" in str(forgotten.exception)


def test_init_takes_no_scan_from_the_folder_of_labels_and_makes_no_project(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "data" / "a.nii.gz")
    arguments = ["init", str(tmp_path / "project"), str(scan), "--labels", str(tmp_path / "data")]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, UserError) and "give scans in another folder" in str(result.exception)
    assert not (tmp_path / "project").exists()


def test_libraries_print_nothing_of_their_own(tmp_path: Path) -> None:
    """nibabel has something to say about a negative spacing; the note about it is ours."""
    scan = write_scan(tmp_path / "a.nii")
    content = bytearray(scan.read_bytes())
    content[80:84] = np.float32(-1).tobytes()  # pixdim[1]
    scan.write_bytes(content)
    result = medssl("init", tmp_path / "project", scan)
    assert result.returncode == 0
    assert [line.partition(": ")[0] for line in result.stderr.splitlines()] == [str(scan)]


def test_hold_out_changes_scans_of_the_project_and_says_how_many(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    scans = [write_scan(tmp_path / f"{name}.nii.gz", seed=len(name)) for name in ("a", "test_b", "test_cd")]
    CliRunner().invoke(app, ["init", str(folder), *map(str, scans)])
    result = CliRunner().invoke(app, ["init", str(folder), "--hold-out", "test_*"])
    assert "test_*: 2 scans held out of training." in result.output
    assert [scan.held_out for scan in Project.open(folder).scans.values()] == [False, True, True]
    result = CliRunner().invoke(app, ["init", str(folder), "--no-hold-out", "test_b*"])
    assert "test_b*: 1 scan used for training." in result.output
    assert [scan.held_out for scan in Project.open(folder).scans.values()] == [False, False, True]


def test_a_pattern_that_matches_no_scan_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "a.nii.gz")
    result = CliRunner().invoke(app, ["init", str(tmp_path / "project"), str(scan), "--hold-out", "tset_*"])
    assert "'tset_*'" in str(result.exception)
    assert not (tmp_path / "project").exists()


def soft_tissue(path: Path, air: bool) -> Path:
    """A scan in Hounsfield units with a sheet of air, or without anything below -50."""
    array = np.random.default_rng(int(air)).normal(45, 8, (8, 9, 10)).round()
    array[0] = -1000 if air else 300
    path.parent.mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array.astype(np.float32), np.eye(4)), path)
    return path


def test_init_says_which_modality_it_takes_scans_as(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    crop = soft_tissue(tmp_path / "scans" / "crop.nii", air=False)
    alone = CliRunner().invoke(app, ["init", str(folder), str(crop)])
    assert "CT (uncertain); the values fit CT and MR, --modality says which: crop" in alone.output
    whole = soft_tissue(tmp_path / "scans" / "whole.nii", air=True)
    result = CliRunner().invoke(app, ["init", str(folder), str(whole), "--modality", "mr"])
    assert "MR (as set): whole" in result.output
    assert "crop was taken as CT, but the other scans are MR" in result.output.replace("\n", " ")
    corrected = CliRunner().invoke(app, ["init", str(folder), str(crop), "--modality", "mr"])
    assert "crop is taken as MR now, no longer as CT." in corrected.output
    assert {scan.modality for scan in Project.open(folder).scans.values()} == {"mr"}


def test_init_corrects_the_modality_of_a_channel_whose_file_is_named(tmp_path: Path) -> None:
    folder, array = tmp_path / "project", np.random.default_rng(0).normal(300, 50, (8, 9, 10))
    for number in range(2):
        image = nibabel.Nifti1Image((array[:: 1 - 2 * number]).astype(np.float32), np.eye(4))
        nibabel.save(image, tmp_path / f"p_t{number + 1}.nii")
    files = [str(tmp_path / f"p_t{number}.nii") for number in (1, 2)]
    CliRunner().invoke(app, ["init", str(folder), *files, "--channels", "t1,t2", "--modality", "mr"])
    before = Project.open(folder).image("p", "t2").copy()
    named = ["init", str(folder), files[1], "--modality", "ct"]
    assert "p, channel t2, is taken as CT now" in CliRunner().invoke(app, named).output
    project = Project.open(folder)
    assert [part.modality for part in project.scans["p"].parts] == ["mr", "ct"]
    assert not np.array_equal(project.image("p", "t2"), before)
    assert "MR, CT" in CliRunner().invoke(app, ["scans", str(folder)]).output


def test_init_settles_scans_by_those_that_come_later(tmp_path: Path) -> None:
    for name, air in (("a.nii", False), ("b.nii", True)):
        soft_tissue(tmp_path / "scans" / name, air)
    result = CliRunner().invoke(app, ["init", str(tmp_path / "project"), str(tmp_path / "scans")])
    assert "CT (like the other scans): a" in result.output
    assert "CT (by its values): b" in result.output


def test_init_says_what_it_tolerated_and_refuses_an_unknown_modality(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(300, 50, (8, 9, 10)).astype(np.float32)
    array[:2] = np.nan
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "holes.nii")
    arguments = ["init", str(tmp_path / "project"), str(tmp_path / "holes.nii")]
    assert "25 % of its voxels are NaN or infinite" in CliRunner().invoke(app, arguments).output
    refused = CliRunner().invoke(app, [*arguments, "--modality", "xray"])
    assert isinstance(refused.exception, UserError)


def test_last_is_the_newest_run_of_its_kind_with_a_checkpoint(project: Project) -> None:
    assert choose_run(project, "last", ("finetune",)).id == project.runs("finetune")[0].id


def test_last_says_what_it_takes_and_what_it_passes_over(
    project: Project, capsys: pytest.CaptureFixture
) -> None:
    choose_run(project, "last", ("finetune",))
    used, passed_over = [run.id for run in project.runs("finetune")]
    said = capsys.readouterr().err
    assert f"Using {used}" in said and f"{passed_over} (no checkpoint)" in said


def test_last_passes_over_a_run_that_is_being_trained_but_not_to_resume_it(
    project: Project, capsys: pytest.CaptureFixture
) -> None:
    used, newest = project.runs("finetune")
    newest.checkpoint.write_bytes(used.checkpoint.read_bytes())
    with training_lock(newest.folder):
        assert choose_run(project, "last", ("finetune",)).id == used.id
        assert f"passed over {newest.id} (being trained)" in capsys.readouterr().err
        assert choose_run(project, "last", ("finetune",), "Resuming").id == newest.id
        used.checkpoint.unlink()
        assert choose_run(project, "last", ("finetune",)).id == newest.id, "better than none"
    used.checkpoint.write_bytes(newest.checkpoint.read_bytes())
    assert choose_run(project, "last", ("finetune",)).id == newest.id


def finished(project: Project, steps: int) -> Run:
    """The fine-tuning run with weights, after it has ended by itself."""
    run = project.runs("finetune")[0]
    write_json(run.folder / "job.json", {"job": "finetune", "steps": steps})
    write_json(run.folder / "card.json", {"step": steps, "elapsed_s": 4.0})
    log = [events.Started(run.id), events.Done()]
    (run.folder / "events.jsonl").write_text("".join(events.to_line(event) + "\n" for event in log))
    return run


def test_a_finished_run_is_resumed_only_with_a_larger_total(project: Project) -> None:
    run = finished(project, steps=3)
    for steps in (None, 2, 3):
        with pytest.raises(UserError, match="has finished after 3 steps"):
            choose_resumable(project, "last", "finetune", None, steps)
    assert choose_resumable(project, "last", "finetune", None, 4).id == run.id


def test_a_run_that_crashed_when_it_was_resumed_is_not_finished(project: Project) -> None:
    run = finished(project, steps=3)
    with (run.folder / "events.jsonl").open("a") as log:
        log.write(events.to_line(events.Started(run.id)) + "\n")
    assert choose_resumable(project, "last", "finetune", None, None).id == run.id


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        ("finetune", "--set", "learning_rate=5"),
        ("finetune", "--weights", "random"),
        ("finetune", "--seed", "3"),
        ("finetune", "--recipe", "quick"),
        ("pretrain", "--method", "mae"),
    ],
)
def test_options_that_a_resumed_run_would_ignore_are_refused(
    project: Project, command: str, option: str, value: str
) -> None:
    result = CliRunner().invoke(app, [command, str(project.root), "--resume", "last", option, value])
    assert f"so {option} would be ignored" in str(result.exception)


@pytest.mark.parametrize("command", ["pretrain nowhere", "finetune nowhere", "demo"])
@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_a_training_lasts_longer_than_nothing(command: str, minutes: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), "--minutes", minutes])
    assert result.exit_code == 2 and "--minutes" in result.output


@pytest.mark.parametrize(
    "options",
    [
        ("export", "nowhere", "--out", "out", "--drop-ml", "nan"),
        ("finetune", "nowhere", "--seed", "-1"),
        ("finetune", "nowhere", "--steps", "0"),
        ("demo", "--seeds", "0"),
        ("suggest", "nowhere", "--count", "0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_before_work_begins(options: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 2 and options[-2] in result.output


@pytest.mark.parametrize("options", [("--methods", "random,foo"), ("--device", "foo")])
def test_the_demo_checks_names_before_it_makes_anything(tmp_path: Path, options: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "out"), *options])
    assert isinstance(result.exception, UserError) and "'foo'" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_run_is_found_by_its_number(project: Project) -> None:
    assert choose_run(project, "1", ("pretrain",)).id == project.runs("pretrain")[0].id


def test_a_number_of_no_run_is_refused_however_long_it_is(project: Project) -> None:
    assert choose_run(project, "0001", ("pretrain",)).id == project.runs("pretrain")[0].id
    for number in ("99", "9" * 5000):
        with pytest.raises(UserError, match="has no run"):
            choose_run(project, number, ("pretrain",))


def test_a_run_of_the_wrong_kind_is_refused(project: Project) -> None:
    with pytest.raises(UserError, match="is a pre-training run; give a fine-tuning run"):
        choose_run(project, project.runs("pretrain")[0].id, ("finetune",))


def test_no_run_yet_says_which_command_makes_one_as_a_shell_takes_it(tmp_path: Path) -> None:
    folder = tmp_path / "no runs; yet"
    with pytest.raises(UserError, match=re.escape(f"start one with medssl finetune '{folder}'")):
        choose_run(Project.create(folder), "last", ("finetune",))


def test_there_is_nothing_to_resume_before_the_first_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="start one with medssl pretrain ") as error:
        choose_resumable(Project.create(tmp_path / "empty"), "last", "pretrain", None, None)
    assert "--weights" not in str(error.value)


def test_arguments_are_scans_of_the_project_or_files(project: Project, tmp_path: Path) -> None:
    scan_id = next(iter(project.scans))
    path = write_scan(tmp_path / "other.nii.gz")
    project.rename_scan(scan_id, "Patient 1")
    split = split_scans(project, [scan_id, str(path), "Patient 1", "nothing.nii"])
    assert (split.inside, split.outside) == ((scan_id, scan_id), (path,))
    assert [sentence.split()[0] for sentence in split.missing] == ["nothing.nii"]


def test_arguments_that_are_all_neither_are_refused(project: Project) -> None:
    with pytest.raises(UserError, match="is neither a scan"):
        split_scans(project, ["nothing.nii"])


def test_a_segmentation_never_lands_on_its_scan_or_on_another_segmentation(tmp_path: Path) -> None:
    scans = [tmp_path / folder / "scan.nii.gz" for folder in ("a", "b", "b")]
    written: list[Path] = []
    for scan in scans:
        found = ScanFile(scan, "scan", "scan", given=True)
        written.append(segmentation_path(found, tmp_path / "a", written))
    assert len(set(written)) == 3
    assert not set(written) & set(scans)


def test_a_segmentation_lies_next_to_its_scan_and_has_its_name() -> None:
    scan = ScanFile(Path("study/patient.1/scan.nrrd"), "scan", "patient.1-scan", given=False)
    assert segmentation_path(scan, None, []) == Path("study/patient.1/scan_segmentation.nii.gz")
    assert segmentation_path(scan, Path("out"), []) == Path("out/patient.1-scan_segmentation.nii.gz")


def test_settings_are_read_as_numbers_where_they_are_numbers() -> None:
    assert settings_from(["learning_rate=1e-3", "mode=fast"]) == {"learning_rate": 1e-3, "mode": "fast"}


@pytest.mark.parametrize("name", [*ALL, *settings.FINETUNING])
def test_the_listed_settings_can_be_pasted_after_set(name: str) -> None:
    groups = (
        settings.of_finetuning(name, "quick")
        if name in settings.FINETUNING
        else settings.of_pretraining(name, "quick")
    )
    groups.pop(settings.COMPUTER)
    for setting in itertools.chain.from_iterable(groups.values()):
        (pasted,) = shlex.split(assignment(setting.name, setting.default))
        values = settings_from([pasted])
        settings.check([setting], values)
        default = list(setting.default) if isinstance(setting.default, tuple) else setting.default
        assert values == {setting.name: default}


@pytest.mark.parametrize("name", [*ALL, *settings.FINETUNING])
def test_a_training_knows_all_settings_that_are_listed(name: str) -> None:
    job: PretrainJob | FinetuneJob
    if name in settings.FINETUNING:
        listed = settings.of_finetuning(name, "quick")
        job = FinetuneJob(project="", semi_supervised=name)  # type: ignore[arg-type]  # one of the choices
    else:
        listed, job = settings.of_pretraining(name, "quick"), PretrainJob(project="", method=name)
    listed.pop(settings.COMPUTER)
    values = {setting.name: setting.default for setting in itertools.chain.from_iterable(listed.values())}
    settings.check_job(replace(job, settings=values))


def test_refused_settings_make_no_project_for_a_method_without_scans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["pretrain", "--method", "shapes", "--set", "colour=1"])
    assert "'colour'" in str(result.exception) and not list(tmp_path.iterdir())


def test_a_misspelt_setting_is_answered_with_the_most_similar_one() -> None:
    for name in ("learningrate", "learning-rate"):
        with pytest.raises(UserError, match="the most similar is 'learning_rate'"):
            settings.check_job(PretrainJob(project="", settings={name: 1}))


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "[1, NaN]"])
def test_a_setting_that_is_not_finite_is_refused(value: str) -> None:
    with pytest.raises(UserError, match="is not a finite number"):
        settings_from([f"learning_rate={value}"])


def test_a_setting_without_a_value_is_refused() -> None:
    with pytest.raises(UserError, match="--set learning_rate has no value"):
        settings_from(["learning_rate"])


@pytest.mark.parametrize(("seconds", "text"), [(7, "0:07"), (750, "12:30"), (3723, "1:02:03"), (-1, "0:00")])
def test_durations_read_like_a_clock(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_without_a_terminal_a_line_comes_with_every_tenth() -> None:
    paper = io.StringIO()
    with Drawing(Console(file=paper)) as drawing:
        for step in range(101):
            drawing.emit(events.Progress("training", step / 100, eta_s=100.0 - step))
    lines = paper.getvalue().splitlines()
    assert 10 <= len(lines) <= 12
    assert lines[0] == "training   0%  1:40 left"
    assert lines[-1].startswith("training 100%")


def test_in_a_terminal_the_bar_shows_phase_loss_and_time_left() -> None:
    paper = io.StringIO()
    with Drawing(Console(file=paper, force_terminal=True, width=120)) as drawing:
        drawing.emit(events.Metric(step=3, values={"loss": 0.25}))
        drawing.emit(events.Progress("training", 0.5, eta_s=61))
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", paper.getvalue())
    assert all(part in text for part in ("training", "50%", "1:01 left", "loss 0.25"))


def test_a_number_is_explained_when_it_first_appears() -> None:
    paper = io.StringIO()
    with Drawing(Console(file=paper, width=120)) as drawing:
        for step in range(3):
            drawing.emit(events.Metric(step=step, values={"loss": 0.25, "of another package": 1.0}))
    assert [line.strip() for line in paper.getvalue().splitlines()] == [f"loss: {MEANINGS['loss']}"]


def test_a_notice_that_comes_again_is_shown_once() -> None:
    paper = io.StringIO()
    with Drawing(Console(file=paper)) as drawing:
        for text in ("Memory was short.", "Memory was short.", "Slices were labelled."):
            drawing.emit(events.Notice(text))
    assert paper.getvalue().splitlines() == ["Memory was short.", "Slices were labelled."]


def test_the_first_interrupt_asks_and_the_second_ends() -> None:
    with stop_on_interrupt(Console(file=io.StringIO())) as asked:
        assert not asked()
        os.kill(os.getpid(), signal.SIGINT)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_interrupts_are_as_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_on_interrupt(Console(file=io.StringIO())):
        pass
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "PROJECT", ""),
        ("init", ""),
        ("init", "PROJECT", ""),
        ("export", "PROJECT", "--out", ""),
        ("export-weights", "PROJECT", "--out="),
        ("pretrain", ""),
        ("runs", "PROJECT", "--add", ""),
        ("run", ""),
    ],
)
def test_an_empty_path_is_not_the_current_folder(project: Project, arguments: tuple[str, ...]) -> None:
    """Of a shell's variable that is not set: all scans below the current folder would be segmented."""
    result = CliRunner().invoke(app, [each.replace("PROJECT", str(project.root)) for each in arguments])
    assert result.exit_code == 2 and "it is empty" in result.output


def test_a_modality_is_for_files_outside_the_project(project: Project) -> None:
    for modality, words in (("mr", "is for files outside the project"), ("xray", "is not a modality")):
        result = CliRunner().invoke(app, ["predict", str(project.root), "--modality", modality])
        assert isinstance(result.exception, UserError) and words in str(result.exception)
