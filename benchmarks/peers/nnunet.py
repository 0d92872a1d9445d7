"""nnU-Net v2 (Isensee et al., Nature Methods 18, 2021) with its ignore label on everything nobody painted.

It runs in an environment of its own, which is made where it is missing, and is called by its own commands but
for training, which `nnunet_train.py` ends after the minutes that every method has. Planning, preprocessing
and the import of its libraries do not count against it, nor does prediction, which mirrors as it does by
default. What it has learned on its way is read off from weights that it keeps then. All cases train ("fold
all"): with two there is nothing to leave out. On a CPU it computes in fp32, as it comes.
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
from medssl.core.files import write_json
from medssl.core.io.volume import suffix_of, write_labels
from medssl.core.labels.evaluate import reference_labels
from medssl.core.project.project import IGNORE
from medssl.nn import devices

if TYPE_CHECKING:
    from peers import Bench

PACKAGES = ("torch==2.13.0", "nnunetv2==2.5.2", "dynamic-network-architectures==0.3.1")
"""The newest that run together without CUDA: later ones import torchvision's compiled operators."""

TRAINER = Path(__file__).with_name("nnunet_train.py")
ENDING, FINAL = ".nii.gz", "checkpoint_final.pth"
AUGMENTERS_GPU = 12
"""Processes that augment beside a GPU: nnU-Net's own number. On a CPU the training itself does it."""


def run_nnunet(assignment: Assignment, bench: Bench, configuration: str) -> Outcome:
    """Plan, preprocess, train, predict; `configuration` is "2d" or "3d_fullres".

    Before its first step it knows nothing, so a mark of 0 s is left out.
    """
    settings = assignment.settings
    marks = [mark for mark in assignment.marks_s if mark]
    make_environment(bench.nnunet_env)
    begin = time.monotonic()
    shutil.rmtree(bench.work, ignore_errors=True)
    export(assignment, bench.work)
    one = "1"
    _call(bench, "nnUNetv2_plan_and_preprocess", "-d", one, "-c", configuration, "-np", one, "-npfp", one)
    told = bench.work / "training.json"
    on_gpu = settings.device == "cuda"
    _call(
        bench, "python", str(TRAINER), configuration, "--minutes", str(settings.minutes),
        "--device", settings.device, "--threads", str(devices.THREADS), "--seed", str(assignment.seed),
        "--out", str(told), *(f"--mark={mark:g}" for mark in marks),
        augmenters=min(AUGMENTERS_GPU, os.cpu_count() or 1) if on_gpu else 0,
    )  # fmt: skip
    found = {
        mark: _predict(assignment, bench, configuration, weights)
        for mark, weights in [(mark, f"checkpoint_{mark:g}.pth") for mark in marks] or [(0, FINAL)]
    }
    training = json.loads(told.read_text())
    return Outcome(
        prediction=found[max(found)],
        on_the_way={mark: Moment(found[mark]) for mark in marks},
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
    """What the training's file `weights` makes of the scans."""
    predicted = bench.work / f"predicted-{weights}"
    _call(
        bench, "nnUNetv2_predict", "-i", str(bench.work / "wanted"), "-o", str(predicted), "-d", "1",
        "-c", configuration, "-f", "all", "-chk", weights, "-npp", "1", "-nps", "1",
        "-device", assignment.settings.device,
        "--disable_progress_bar", *([] if bench.mirroring else ["--disable_tta"]),
    )  # fmt: skip
    return {scan_id: read(assignment, predicted, scan_id) for scan_id in assignment.scans}.__getitem__


def make_environment(folder: Path) -> None:
    """A virtual environment with PACKAGES, unless it is there.

    Raises UserError ("no-environment") where it cannot be made.
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
            f"nnU-Net's environment in {folder} could not be made ({error}); see what pip said above.",
            code="no-environment",
        ) from error
    ready.write_text(wanted)


def program(environment: Path, name: str) -> Path:
    """A command of an environment."""
    return environment / ("Scripts" if os.name == "nt" else "bin") / name


def export(assignment: Assignment, folder: Path) -> None:
    """Write what nnU-Net asks for: the annotated scans with labels under raw/, all to predict under wanted/.

    Classes become 1..K in the project's order, and unpainted voxels K + 1, which it ignores.
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
        assert annotation is not None  # the assignment says so
        _copy_scan(Path(scan.source), raw / "imagesTr" / f"{scan_id}_0000{ENDING}")
        labels = numbers[annotation.target()]
        write_labels(raw / "labelsTr" / f"{scan_id}{ENDING}", labels, scan.geometry)
    names = {"background": 0, **{each.name: number for number, each in enumerate(project.classes, 1)}}
    # nnU-Net normalises CT by the values in the structures, everything else scan by scan.
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
    """A prediction in the project's class ids, on the scan's grid."""
    project = assignment.material.project
    labels = reference_labels(project.scans[scan_id], folder / f"{scan_id}{ENDING}")
    return np.array([0, *(each.id for each in project.classes)], dtype=np.uint8)[labels]


def _copy_scan(source: Path, target: Path) -> None:
    if suffix_of(source) != ENDING:
        raise UserError(f"{source} is not compressed NIfTI, which nnU-Net is given here.", code="unsupported")
    shutil.copy(source, target)


def _call(bench: Bench, name: str, *words: str, augmenters: int = 1) -> None:
    """Run a command of nnU-Net's environment; what it prints goes to a log in the work folder.

    Raises Stopped after Ctrl-C, RuntimeError with the end of the log where it fails.
    """
    log = bench.work / "log.txt"
    folders = {f"nnUNet_{part}": str(bench.work / part) for part in ("raw", "preprocessed", "results")}
    surroundings = {
        **os.environ,
        **folders,
        "nnUNet_n_proc_DA": str(augmenters),
        "nnUNet_compile": "false",  # it would cost a short training more than it gives back
        "OMP_NUM_THREADS": str(devices.THREADS),
        "PYTHONPATH": "",
    }
    with log.open("a", encoding="utf-8") as file:
        command = [str(program(bench.nnunet_env, name)), *words]
        done = subprocess.run(command, env=surroundings, stdout=file, stderr=subprocess.STDOUT, check=False)
    if bench.should_stop():
        raise Stopped
    if done.returncode:
        end = " | ".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:])
        raise RuntimeError(f"{name} ended with {done.returncode}: {end}")
