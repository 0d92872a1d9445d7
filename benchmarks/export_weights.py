"""Scores of a network as ONNX and as a MONAI bundle against those here: python benchmarks/export_weights.py

Fine-tunes the weights that ship on two painted scans (ten complete slices each), exports the network, and
segments other scans of the set in three ways: here, slice by slice with onnxruntime, and with MONAI's own
command in a process without medssl.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import onnxruntime
import torch
from few_slices_data import DATA, DATASETS
from medssl import engine
from medssl.benchmarking.dataset import read_dataset
from medssl.benchmarking.report import markdown_table
from medssl.benchmarking.simulated_annotator import annotate, choose_slices
from medssl.benchmarking.surroundings import machine_text, surroundings
from medssl.core.io.labels import read_labels
from medssl.core.jobs import ExportWeightsJob, FinetuneJob, PredictJob
from medssl.core.project.project import Project
from medssl.tasks.inference.predict import Trained
from medssl.tasks.inference.scores import posterior_slabs
from medssl.tasks.inference.slabs import neighbouring_slices, slab_of, work_of
from monai.bundle import ConfigParser

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "export_weights.md"
CPU = torch.device("cpu")
ANNOTATED, SLICES, SCANS = 2, 10, 5
NETWORKS: dict[str, dict[str, Any]] = {
    "2.5D": {"precision": "fp32"},
    "2.5D, predicted in bf16 here": {"precision": "bf16"},
    "3D": {"precision": "fp32", "dims": 3},
}
"""{row of the table: settings of the fine-tuning}."""
WITHOUT_MEDSSL = """
import runpy, sys
sys.modules["medssl"] = None
runpy.run_module("monai.bundle", run_name="__main__")
"""
PAGE_TEXT = """# Weights in other programs

`python benchmarks/export_weights.py --page`, {day}; {machine}, onnxruntime {onnxruntime}, MONAI {monai};
commit {commit}.

{minutes:g} minutes of fine-tuning from the weights that ship, on {annotated} hippocampus scans with {slices}
complete slices each (two classes, seed 0), and {scans} other scans. Largest difference of a probability from
the network here: of whole slices (3D: a window) with onnxruntime, and of whole scans, averaged and smoothed,
with the bundle. Last, the voxels that `python -m monai.bundle run` labels otherwise than `medssl predict`, in
a process that cannot import medssl.

{table}

ONNX files and bundles compute in fp32. Where `medssl predict` takes bf16, as on the CPU of this machine, it
is that which moves its scores.
"""


def make_project(folder: Path) -> tuple[Project, list[Path]]:
    """A project of two painted hippocampus scans and some others; the files of the others."""
    dataset = read_dataset(DATA / DATASETS["hippocampus"].folder)
    project = Project.create(folder / "project", dataset.classes)
    others = []
    for number, (path, labels) in enumerate(dataset.pairs[: ANNOTATED + SCANS]):
        scan = project.add_scan(path, held_out=number >= ANNOTATED)
        if number < ANNOTATED:
            truth = read_labels(labels, scan.geometry).array
            project.save_annotation(scan.id, annotate(truth, choose_slices(truth, SLICES, 0), 0))
        else:
            others.append(path)
    return project, others


@torch.inference_mode()
def onnx_difference(trained: Trained, project: Project, scans: list[str], path: Path) -> float:
    """Largest difference of a probability between onnxruntime and the network on all slices of scans."""
    session, largest = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]), 0.0
    for scan in scans:
        work = work_of(project, scan, trained.plan)
        if trained.plan.dims == 2:
            image = neighbouring_slices(work, 0, len(work[0]), trained.plan.patch_vox[0], CPU)
        else:
            image = slab_of(work, 0, min(len(work[0]), trained.plan.patch_vox[0]), CPU)[None]
        expected = trained.network(image).softmax(1).numpy()
        largest = max(largest, float(np.abs(session.run(None, {"image": image.numpy()})[0] - expected).max()))
    return largest


@torch.inference_mode()
def bundle_difference(trained: Trained, project: Project, scans: dict[str, Path], bundle: Path) -> float:
    """Largest difference of a probability of whole scans between a bundle's inferer and medssl."""
    sys.path.insert(0, str(bundle))
    config = ConfigParser()
    config.read_config(bundle / "configs" / "inference.json")
    config["bundle_root"] = str(bundle)
    network = config.get_parsed_content("network").eval()
    config.get_parsed_content("initialize")
    preprocessing, inferer = map(config.get_parsed_content, ("preprocessing", "inferer"))
    largest = 0.0
    for scan, path in scans.items():
        found = inferer(preprocessing({"image": str(path)})["image"][None], network)[0].numpy()
        spacing = [project.scans[scan].geometry.spacing_mm[axis] for axis in trained.plan.work_axes]
        work = work_of(project, scan, trained.plan)
        slabs = posterior_slabs(trained.network, trained.plan, work, spacing, CPU)
        scores = np.moveaxis(torch.cat([smoothed for _, smoothed in slabs]).numpy(), 1, 0)
        back = np.argsort(trained.plan.work_axes)
        expected = scores.transpose(0, *(1 + back[::-1]))  # (1 + K, X, Y, Z), as MONAI has it
        largest = max(largest, float(np.abs(found - expected).max()))
    sys.path.remove(str(bundle))
    return largest


def different_labels(
    project: Project, run: str, scans: dict[str, Path], bundle: Path, folder: Path
) -> tuple[int, int]:
    """Voxels that MONAI's command labels otherwise, and all voxels that either labels."""
    (folder / "scans").mkdir()
    for path in scans.values():
        (folder / "scans" / path.name).write_bytes(path.read_bytes())
    options = {"--dataset_dir": folder / "scans", "--output_dir": folder / "out"}
    command = [sys.executable, "-c", WITHOUT_MEDSSL, "run", "--config_file", "configs/inference.json"]
    command += [str(part) for option in options.items() for part in option]
    subprocess.run(command, cwd=bundle, check=True, capture_output=True)
    engine.run(
        PredictJob(str(project.root), weights=run, scans=tuple(scans), device="cpu"),
        lambda event: None,
        lambda: False,
    )
    different = foreground = 0
    for scan, path in scans.items():
        written = nib.load(folder / "out" / path.name.replace(".nii.gz", "_seg.nii.gz"))
        labels = np.asarray(nib.as_closest_canonical(written).dataobj).T
        expected = project.prediction(run, scan)
        assert expected is not None
        different += int(np.count_nonzero(labels != expected))
        foreground += int(np.count_nonzero(labels | expected))
    return different, foreground


def row(name: str, settings: dict[str, Any], minutes: float, folder: Path) -> list[str]:
    """Cells of the table for one network."""
    project, others = make_project(folder)
    job = FinetuneJob(
        str(project.root),
        device="cpu",
        minutes=minutes,
        settings={"threads": 1, **settings},
        semi_supervised="none",
    )
    run = engine.run(job, lambda event: None, lambda: False)["run"]
    for target in ("network.onnx", "bundle"):
        export = ExportWeightsJob(str(project.root), weights=run, path=str(folder / target))
        engine.run(export, lambda event: None, lambda: False)
    scans = {scan.id: path for scan in project.scans.values() for path in others if str(path) == scan.source}
    assert len(scans) == SCANS
    trained = Trained.of(project.run(run).checkpoint, run, "cpu")
    onnx = onnx_difference(trained, project, list(scans), folder / "network.onnx")
    bundle = bundle_difference(trained, project, scans, folder / "bundle")
    different, foreground = different_labels(project, run, scans, folder / "bundle", folder)
    return [name, f"{onnx:.1e}", f"{bundle:.1e}", f"{different} of {foreground}"]


def main() -> None:
    """Measure, print the table, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=0.5)
    parser.add_argument("--page", action="store_true", help=f"write {PAGE.name}")
    options = parser.parse_args()
    rows = []
    for name, settings in NETWORKS.items():
        with tempfile.TemporaryDirectory() as folder:
            rows.append(row(name, settings, options.minutes, Path(folder)))
    machine = surroundings("cpu")
    columns = ["network", "ONNX: scores", "bundle: scores", "bundle: labels, of labelled voxels"]
    text = PAGE_TEXT.format(
        day=f"{date.today():%d %B %Y}",
        machine=machine_text(machine, 1),
        onnxruntime=version("onnxruntime"),
        monai=version("monai"),
        commit=machine["commit"],
        minutes=options.minutes,
        annotated=ANNOTATED,
        slices=SLICES,
        scans=SCANS,
        table=markdown_table(columns, rows),
    )
    print(text)
    if options.page:
        PAGE.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
