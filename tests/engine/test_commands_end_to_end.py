"""The commands with the real engine, a few steps each, on small made-up scans."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
from made_dataset import write_dataset
from medssl.benchmarking.simulated_annotator import annotate
from medssl.cli import app
from medssl.core.events import Checkpoint, Done, Started, from_line
from medssl.core.jobs import PretrainJob, write_job
from medssl.core.project.project import Project
from typer.testing import CliRunner, Result

AFFINE = np.array([[0, -2.0, 0, 30], [2.0, 0, 0, -20], [0, 0, 4.0, 5], [0, 0, 0, 1]])  # rows run backwards


def write_scan(path: Path, seed: int, labels: bool = False) -> Path:
    """A bright ball in noise, or its labels, (32, 28, 12) voxels in the file."""
    rng = np.random.default_rng(seed)
    i, j, k = np.ogrid[:32, :28, :12]
    ball = (i - 16) ** 2 + (j - 14) ** 2 + 4 * (k - 6) ** 2 < 60
    values = (
        ball.astype(np.uint8) if labels else (100 * ball + rng.normal(0, 20, ball.shape)).astype(np.float32)
    )
    path.parent.mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), path)
    return path


def medssl(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after init, two annotated slices, pre-training and fine-tuning."""
    folder = tmp_path_factory.mktemp("commands")
    scans = [write_scan(folder / "scans" / f"case{index}.nii.gz", seed=index) for index in range(2)]
    root = folder / "project"
    medssl("init", root, *scans, "--classes", "ball")
    project = Project.open(root)
    labels = np.zeros(project.scans["case0"].geometry.shape_zyx, dtype=np.uint8)
    labels[6, 10:20, 10:18] = 1
    project.save_annotation("case0", annotate(labels, (1, 6)))
    medssl("pretrain", root, "--steps", 2, "--device", "cpu")
    medssl("finetune", root, "--weights", "last", "--steps", 2, "--predict", "case1", "--device", "cpu")
    return root


def test_training_leaves_numbered_runs_with_checkpoints(trained: Path) -> None:
    runs = Project.open(trained).runs()
    assert [run.kind for run in runs[:2]] == ["pretrain", "finetune"]
    assert all(run.checkpoint.exists() for run in runs[:2])
    assert runs[1].job["weights"] == runs[0].id


def test_finetune_predicts_what_it_was_asked_to(trained: Path) -> None:
    project = Project.open(trained)
    run = project.runs("finetune")[0]
    assert project.prediction(run.id, "case1") is not None
    assert project.prediction(run.id, "case0") is None


def test_resume_goes_on_with_the_same_run(trained: Path) -> None:
    before = len(Project.open(trained).runs())
    result = medssl("pretrain", trained, "--resume", "last", "--steps", 3, "--device", "cpu")
    assert result.stdout.strip() == "0001-pretrain-pgl"
    assert len(Project.open(trained).runs()) == before
    assert Project.open(trained).run("0001-pretrain-pgl").card["step"] == 3


def test_a_file_outside_the_project_is_segmented_next_to_it_on_its_grid(
    trained: Path, tmp_path: Path
) -> None:
    scan = write_scan(tmp_path / "new" / "patient.nii.gz", seed=9)
    result = medssl("predict", trained, scan, "--device", "cpu")
    written = tmp_path / "new" / "patient_segmentation.nii.gz"
    assert result.stdout.split() == [str(written)]
    image = nibabel.load(written)
    assert image.shape == (32, 28, 12)
    assert np.array_equal(image.affine, AFFINE)
    assert len(Project.open(trained).scans) == 2


def test_the_projects_own_scans_are_segmented_into_a_folder(trained: Path, tmp_path: Path) -> None:
    medssl("predict", trained, "case0", "--out", tmp_path / "out", "--device", "cpu")
    image = nibabel.load(tmp_path / "out" / "case0_segmentation.nii.gz")
    assert image.shape == (32, 28, 12)


def test_evaluate_prints_a_table_and_writes_the_numbers(trained: Path, tmp_path: Path) -> None:
    write_scan(tmp_path / "labels" / "case1.nii.gz", seed=1, labels=True)
    numbers = tmp_path / "dice.json"
    result = medssl("evaluate", trained, "--labels", tmp_path / "labels", "--json", numbers)
    assert "ball" in result.stdout
    assert "case1" in result.stdout
    assert set(json.loads(numbers.read_text())["scans"]) == {"case1"}


def test_similarity_lies_over_the_scan_and_is_highest_at_the_voxel(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "similarity.nii.gz"
    medssl("similarity", trained, "case0", 6, 12, 8, "--out", out, "--device", "cpu")
    image = nibabel.load(out)
    values = image.get_fdata()
    place = np.array(np.unravel_index(np.argmax(values), values.shape))
    patient = (image.affine @ [*place, 1])[:3]
    asked = (Project.open(trained).scans["case0"].geometry.canonical_affine @ [6, 12, 8, 1])[:3]
    assert values.max() == pytest.approx(1.0, abs=1e-2)
    assert np.all(np.abs(patient - asked) <= [2.0, 2.0, 4.0])


def test_a_voxel_outside_the_scan_is_refused(trained: Path, tmp_path: Path) -> None:
    arguments = ["similarity", str(trained), "case0", "99", "0", "0", "--out", str(tmp_path / "out.nii")]
    result = CliRunner().invoke(app, arguments)
    assert "choose one inside" in str(result.exception)


def test_doctor_says_what_would_be_chosen(trained: Path) -> None:
    output = medssl("doctor", trained).stdout
    assert all(word in output for word in ("torch", "memory", "cpu", "2.5D", "patch"))


def test_a_child_that_is_told_to_stop_leaves_a_checkpoint(trained: Path, tmp_path: Path) -> None:
    write_job(tmp_path / "job.json", PretrainJob(project=str(trained), minutes=5.0, device="cpu"))
    command = [sys.executable, "-u", "-m", "medssl", "run", str(tmp_path / "job.json")]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    events = []
    for line in child.stdout:
        events.append(from_line(line))
        if isinstance(events[-1], Checkpoint):
            child.stdin.write("stop\n")
            child.stdin.flush()
    assert child.wait(timeout=60) == 0
    child.stdin.close()
    child.stdout.close()
    first, last = events[0], events[-1]
    assert isinstance(first, Started)
    assert isinstance(last, Done)
    assert last.stopped
    assert Project.open(trained).run(first.run).checkpoint.exists()


def test_ctrl_c_stops_with_a_checkpoint_and_says_how_to_go_on(trained: Path) -> None:
    command = [sys.executable, "-m", "medssl", "pretrain", str(trained), "--minutes", "5", "--device", "cpu"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    before = {run.id for run in Project.open(trained).runs()}
    while not any(run.checkpoint.exists() for run in Project.open(trained).runs() if run.id not in before):
        assert running.poll() is None
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "--resume" in said
    assert "Traceback" not in said


def test_the_demo_makes_everything_it_promises_and_a_second_call_trains_nothing(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    data = write_dataset(tmp_path / "data")
    arguments = ("demo", "--data", data, "--out", out, "--methods", "random,pgl", "--minutes", "0.02",
                 "--device", "cpu")  # fmt: skip
    result = medssl(*arguments)
    assert all(word in result.stdout for word in ("structure", "random", "PGL"))
    for name in ("dice.md", "dice.json", "dice.png", "overlay.png", "similarity.png", "curves.png"):
        assert (out / name).stat().st_size > 400, name
    assert len(list(out.glob("predictions/*/*.nii.gz"))) == 4
    project = Project.open(out / "project")
    assert sum(scan.held_out for scan in project.scans.values()) == 2
    assert len(project.annotated()) == 2
    runs = [run.id for run in project.runs()]
    medssl(*arguments)
    assert [run.id for run in project.runs()] == runs
