"""A MONAI bundle segments as medssl does, by MONAI's own commands, and without medssl."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from channels import make_project as make_channels
from medssl.benchmarking.simulated_annotator import annotate
from medssl.core.jobs import ExportWeightsJob, PredictJob
from medssl.core.project.project import LabelClass, Project
from medssl.tasks.weights_out.bundle import PRIOR, WEIGHTS
from monai.bundle import ConfigWorkflow, verify_net_in_out
from small import block_phantom, job_of, make_project, run, write_nifti
from test_location_prior import PLACES, SHAPE, SIZES, boxes

pytestmark = pytest.mark.slow
WITHOUT_MEDSSL = """
import runpy, sys
sys.modules["medssl"] = None
runpy.run_module("monai.bundle", run_name="__main__")
"""
"""`python -m monai.bundle` in an environment that does not have medssl."""
DESCRIBED = {"type", "format", "modality", "num_channels", "spatial_shape", "dtype", "value_range",
             "is_patch_data", "channel_def"}  # fmt: skip
"""What MONAI's specification asks of a tensor in metadata.json."""


def two_boxes_upside_down(folder: Path) -> Project:
    """Scans whose axes run to the left, inferior and posterior, coronal slices, and a location prior.

    The last one has finer voxels.
    """
    classes = tuple(LabelClass(2 * label, f"box {label}", "#ff0000") for label in SIZES)
    project = Project.create(folder / "project", classes)
    # Its columns are steps to the left, inferior, and 1.2 mm to posterior.
    affine = np.array([[-1.0, 0, 0, 9], [0, 0, -1.2, 4], [0, -1.0, 0, 2], [0, 0, 0, 1]])
    finer = affine @ np.diag([0.8, 0.7, 0.8, 1])
    for number, move in enumerate([(0, 0, 0), (3, 2, -4), (2, -3, 1)]):
        labels = boxes(PLACES, move=move).numpy()
        image = (labels + np.random.default_rng(number).normal(0, 0.1, SHAPE)).astype(np.float32)
        path = folder / f"scan{number}.nii.gz"
        # Canonical (Z, Y, X) to (left, inferior, posterior).
        there = image[::-1, ::-1, ::-1].transpose(2, 0, 1)
        nib.save(nib.Nifti1Image(there, affine if number < 2 else finer), path)
        scan = project.add_scan(path)
        if number < 2:
            project.save_annotation(scan.id, annotate(2 * labels, list(range(2, 46, 4)), 1))
    return project


def three_dimensional(folder: Path) -> Project:
    """Scans of one spacing, and one that is resampled along two axes and smaller than a window along one."""
    project = make_project(folder, shape=(12, 24, 26), spacing_zyx=(1.0, 1.0, 1.5), slices=6)
    image, _ = block_phantom(5, (9, 28, 24))
    project.add_scan(write_nifti(folder / "other.nii", image, (0.7, 0.8, 1.5)))
    return project


def two_channels(folder: Path) -> Project:
    return make_channels(folder)[0]


CASES: dict[str, tuple[Any, str, int]] = {
    "slices": (two_boxes_upside_down, "finetune-none", 25),
    "windows": (three_dimensional, "finetune-3d-none", 8),
    "channels": (two_channels, "finetune-none", 8),
}


def scan_folder(project: Project, folder: Path) -> dict[str, str]:
    """Put the scans of a project where a bundle finds them; {id: name of its file without its ending}."""
    folder.mkdir()
    stems = {}
    for number, scan in enumerate(project.scans.values()):
        for channel, part in enumerate(scan.parts):
            stem = f"case{number}" + (f"_{channel:04d}" if scan.channels else "")
            nib.save(nib.load(part.source), folder / f"{stem}.nii.gz")
            stems.setdefault(scan.id, stem)
    return stems


@pytest.fixture(scope="module", params=CASES)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Project, str, Path]:
    """A project, a fine-tuning of it, and the bundle."""
    folder = tmp_path_factory.mktemp(request.param)
    make, kind, steps = CASES[request.param]
    project: Project = make(folder)
    trained = run(job_of(kind, project, steps=steps))["run"]
    run(ExportWeightsJob(str(project.root), weights=trained, path=str(folder / "bundle")))
    return project, trained, folder / "bundle"


def test_it_gives_the_labels_of_medssl_on_the_grids_of_the_files(
    case: tuple[Project, str, Path], tmp_path: Path
) -> None:
    project, trained, bundle = case
    run(PredictJob(str(project.root), weights=trained, device="cpu"))
    stems = scan_folder(project, tmp_path / "scans")
    command = [sys.executable, "-c", WITHOUT_MEDSSL, "run", "--config_file", "configs/inference.json"]
    command += ["--dataset_dir", str(tmp_path / "scans"), "--output_dir", str(tmp_path / "out")]
    done = subprocess.run(
        command, cwd=bundle, capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    foreground = 0
    for scan, stem in stems.items():
        file, source = nib.load(tmp_path / "out" / f"{stem}_seg.nii.gz"), nib.load(project.scans[scan].source)
        np.testing.assert_allclose(file.affine, source.affine, atol=1e-5)
        assert file.get_data_dtype() == np.uint8
        labels = np.asarray(nib.as_closest_canonical(file).dataobj).T
        expected = project.prediction(trained, scan)
        assert expected is not None
        # Scores on the edge between two of the 256 levels that medssl decides by may fall to either side.
        assert np.count_nonzero(labels != expected) <= 2e-4 * labels.size
        foreground += np.count_nonzero(expected)
    assert foreground
    assert (bundle / PRIOR).exists() == ("slices" in str(bundle))


def test_monai_finds_what_it_asks_of_a_bundle(
    case: tuple[Project, str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, bundle = case
    monkeypatch.chdir(bundle)
    monkeypatch.setattr(sys, "path", [str(bundle), *sys.path])
    for name in [name for name in sys.modules if name.partition(".")[0] == "scripts"]:
        del sys.modules[name]  # those of another bundle
    configs = {"meta_file": "configs/metadata.json", "config_file": "configs/inference.json"}
    workflow = ConfigWorkflow(**configs, workflow_type="infer", logging_file=False)
    workflow.initialize()
    assert not workflow.check_properties()
    verify_net_in_out("network_def", **configs)


def test_the_metadata_have_what_the_specification_asks(case: tuple[Project, str, Path]) -> None:
    project, _, bundle = case
    fields = json.loads((bundle / "configs/metadata.json").read_text())
    needed = {"version", "changelog", "monai_version", "pytorch_version", "numpy_version", "task", "authors",
              "description", "required_packages_version", "copyright", "network_data_format"}  # fmt: skip
    assert needed <= set(fields)
    (image,), (pred,) = (fields["network_data_format"][side].values() for side in ("inputs", "outputs"))
    for tensor in (image, pred):
        assert set(tensor) >= DESCRIBED
        assert len(tensor["channel_def"]) == tensor["num_channels"]
    assert list(pred["channel_def"].values()) == ["background", *(item.name for item in project.classes)]
    readme = (bundle / "docs/README.md").read_text()
    assert all(name in readme for name in (*fields["required_packages_version"], WEIGHTS))
    assert "BSD 3-Clause" in (bundle / "LICENSE").read_text()
