"""nnU-Net v2 (Isensee et al., Nature Methods 18, 2021), with its ignore label on voxels without annotation.

It runs in a virtual environment, created if necessary, through its own commands, except for training:
`nnunet_train.py` ends it after the training time of all methods. Planning, preprocessing, imports and
prediction (with mirroring, the default) do not count towards this time. Results during training come from
weights that are saved at that time. All cases are used for training ("fold all"), as there are only two. On a
CPU it computes in fp32, its default.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from medssl.benchmarking.experiment import Moment, Outcome, Stopped
from medssl.benchmarking.protocol import Assignment
from medssl.core.errors import UserError
from medssl.core.files import make_folder
from medssl.core.io.volume import suffix_of, write_labels
from medssl.core.json_files import write_json
from medssl.core.labels.evaluate import reference_labels
from medssl.core.project.project import IGNORE
from medssl.nn import devices

if TYPE_CHECKING:
    from peers import Bench

PACKAGES = ("torch==2.13.0", "nnunetv2==2.5.2", "dynamic-network-architectures==0.3.1")
"""The newest versions that run together without CUDA: later ones import compiled operators of torchvision."""

TRAINER = Path(__file__).with_name("nnunet_train.py")
ENDING, FINAL = ".nii.gz", "checkpoint_final.pth"
AUGMENTERS_GPU = 12
"""Number of augmentation processes on a GPU (nnU-Net's default); on a CPU the training process augments."""


def run_nnunet(assignment: Assignment, bench: Bench, configuration: str) -> Outcome:
    """Plan, preprocess, train and predict. There is no result at 0 s, before the first step.

    Args:
        assignment: The annotated scans and the time.
        bench: The working environment.
        configuration: "2d" or "3d_fullres".
    """
    settings = assignment.settings
    marks = [mark for mark in assignment.marks_s if mark]
    make_environment(bench.nnunet_env)
    begin = time.monotonic()
    shutil.rmtree(bench.work, ignore_errors=True)
    export(assignment, bench.work)
    one = "1"
    _call(bench, "nnUNetv2_plan_and_preprocess", "-d", one, "-c", configuration, "-np", one, "-npfp", one)
    report = bench.work / "training.json"
    on_gpu = settings.device == "cuda"
    _call(
        bench, "python", str(TRAINER), configuration, "--minutes", str(settings.minutes),
        "--device", settings.device, "--threads", str(devices.THREADS), "--seed", str(assignment.seed),
        "--out", str(report), *(f"--mark={mark:g}" for mark in marks),
        augmenters=min(AUGMENTERS_GPU, os.cpu_count() or 1) if on_gpu else 0,
    )  # fmt: skip
    predictions = {
        mark: _predict(assignment, bench, configuration, weights)
        for mark, weights in [(mark, f"checkpoint_{mark:g}.pth") for mark in marks] or [(0, FINAL)]
    }
    training = json.loads(report.read_text())
    return Outcome(
        prediction=predictions[max(predictions)],
        on_the_way={mark: Moment(predictions[mark]) for mark in marks},
        seconds={"finetune": training["seconds"], "wall": time.monotonic() - begin},
        steps={"finetune": training["iterations"]},
        plan={
            "dims": 2 if configuration == "2d" else 3,
            "patch_vox": training["patch"],
            "batch": training["batch"],
            "precision": "fp16" if on_gpu else "fp32",
            "threads": training["threads"],
        },
        notes={**dict(package.split("==") for package in PACKAGES), "mirroring": bench.mirroring},
    )


def _predict(
    assignment: Assignment, bench: Bench, configuration: str, weights: str
) -> Callable[[str], np.ndarray]:
    """Predict all scans with a file of weights; returns a function from scan id to labels."""
    predicted = bench.work / f"predicted-{weights}"
    _call(
        bench, "nnUNetv2_predict", "-i", str(bench.work / "wanted"), "-o", str(predicted), "-d", "1",
        "-c", configuration, "-f", "all", "-chk", weights, "-npp", "1", "-nps", "1",
        "-device", assignment.settings.device,
        "--disable_progress_bar", *([] if bench.mirroring else ["--disable_tta"]),
    )  # fmt: skip
    return {scan_id: read(assignment, predicted, scan_id) for scan_id in assignment.scans}.__getitem__


def make_environment(folder: Path) -> None:
    """Create a virtual environment with PACKAGES, unless it exists.

    Raises:
        UserError: "no-environment" if it cannot be created.
    """
    ready = folder / "medssl-ready.txt"
    wanted = "\n".join(PACKAGES)
    if ready.exists() and ready.read_text() == wanted:
        return
    try:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([program(folder, "python"), "-m", "pip", "install", *PACKAGES], check=True)
    except subprocess.CalledProcessError as error:
        raise UserError(
            f"nnU-Net's environment in {folder} could not be created ({error}); see pip's output above.",
            code="no-environment",
        ) from error
    ready.write_text(wanted)


def program(environment: Path, name: str) -> Path:
    """Path of a command in a virtual environment."""
    return environment / ("Scripts" if os.name == "nt" else "bin") / name


def export(assignment: Assignment, folder: Path) -> None:
    """Write the annotated scans with labels to raw/, and the scans to predict to wanted/.

    Classes become 1..K in the project's order; voxels without annotation become K + 1, the ignore label.
    """
    project = assignment.material.project
    raw = folder / "raw" / "Dataset001_FewSlices"
    for part in (raw / "imagesTr", raw / "labelsTr", folder / "wanted"):
        part.mkdir(parents=True, exist_ok=True)
    ids = [each.id for each in project.classes]
    numbers = np.zeros(256, dtype=np.uint8)
    numbers[ids] = np.arange(1, len(ids) + 1)
    numbers[IGNORE] = len(ids) + 1
    for scan_id in assignment.scans:
        _copy_scan(Path(project.scans[scan_id].source), folder / "wanted" / f"{scan_id}_0000{ENDING}")
    for scan_id in assignment.annotated:
        scan, annotation = project.scans[scan_id], project.annotation(scan_id)
        assert annotation is not None  # annotated by the assignment
        _copy_scan(Path(scan.source), raw / "imagesTr" / f"{scan_id}_0000{ENDING}")
        labels = numbers[annotation.target()]
        write_labels(make_folder(raw / "labelsTr") / f"{scan_id}{ENDING}", labels, scan.geometry)
    names = {"background": 0, **{each.name: number for number, each in enumerate(project.classes, 1)}}
    # nnU-Net normalises CT by the intensities of the structures, other modalities scan by scan.
    channel = "CT" if all(scan.modality == "ct" for scan in project.scans.values()) else "MRI"
    write_json(
        raw / "dataset.json",
        {
            "channel_names": {"0": channel},
            "labels": {**names, "ignore": len(ids) + 1},
            "numTraining": len(assignment.annotated),
            "file_ending": ENDING,
        },
    )


def read(assignment: Assignment, folder: Path, scan_id: str) -> np.ndarray:
    """Read a prediction as class ids of the project, uint8 (Z, Y, X)."""
    project = assignment.material.project
    labels = reference_labels(project.scans[scan_id], folder / f"{scan_id}{ENDING}")
    return np.array([0, *(each.id for each in project.classes)], dtype=np.uint8)[labels]


def _copy_scan(source: Path, target: Path) -> None:
    if suffix_of(source) != ENDING:
        raise UserError(f"{source} is not compressed NIfTI, which nnU-Net is given here.", code="unsupported")
    shutil.copy(source, target)


def _call(bench: Bench, name: str, *arguments: str, augmenters: int = 1) -> None:
    """Run a command of nnU-Net's environment, with its output in a log in the work folder.

    Raises:
        Stopped: Ctrl-C was pressed.
        RuntimeError: The command failed; with the end of the log.
    """
    log = bench.work / "log.txt"
    folders = {f"nnUNet_{part}": str(bench.work / part) for part in ("raw", "preprocessed", "results")}
    environment = {
        **os.environ,
        **folders,
        "nnUNet_n_proc_DA": str(augmenters),
        "nnUNet_compile": "false",  # compiling takes longer than it saves in a short training
        "OMP_NUM_THREADS": str(devices.THREADS),
        "PYTHONPATH": "",
    }
    with log.open("a", encoding="utf-8") as file:
        command = [str(program(bench.nnunet_env, name)), *arguments]
        child = subprocess.run(command, env=environment, stdout=file, stderr=subprocess.STDOUT, check=False)
    if bench.should_stop():
        raise Stopped
    if child.returncode:
        end = " | ".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:])
        raise RuntimeError(f"{name} ended with {child.returncode}: {end}")
