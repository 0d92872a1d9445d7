"""Scans for the window tests, with the labels that the hand paints."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel
import numpy as np
from medssl.benchmarking.simulated_annotator import annotate, choose_slices
from medssl.core.io.geometry import Geometry
from medssl.core.io.labels import read_labels
from medssl.core.phantom import make_phantom
from medssl.core.project.project import LabelClass, Project

DATA = Path(os.environ.get("MEDSSL_DATA") or Path(__file__).parents[3] / "shared" / "data")


@dataclass(frozen=True)
class Scene:
    """path: the scan; truth: uint8 (Z, Y, X); names: classes 1, 2, ..."""

    path: Path
    truth: np.ndarray
    names: tuple[str, ...]


def hippocampus(folder: Path) -> Scene | None:
    """A small real scan, where the data lie beside the checkout."""
    found = sorted((DATA / "Task04_Hippocampus" / "imagesTr").glob("*.nii.gz"))[1:2]
    if not found:
        return None
    path = folder / found[0].name
    path.write_bytes(found[0].read_bytes())
    labels = read_labels(found[0].parents[1] / "labelsTr" / found[0].name)
    return Scene(path, labels.array, ("Anterior", "Posterior"))


def several(folder: Path) -> Path:
    """A project of a few scans, real ones where there are any, with some slices of two painted."""
    classes = [LabelClass(1, "First", "#ff6f61"), LabelClass(2, "Second", "#4fb3bf")]
    project = Project.create(folder / "project", classes)
    found = sorted((DATA / "Task04_Hippocampus" / "imagesTr").glob("*.nii.gz"))[:8]
    pairs = [(path, read_labels(path.parents[1] / "labelsTr" / path.name).array) for path in found]
    for path, truth in pairs or [_coarse_phantom(folder, seed) for seed in range(4)]:
        scan = project.add_scan(path)
        if len(project.annotated()) < 2:
            project.save_annotation(scan.id, annotate(np.minimum(truth, 2), choose_slices(truth, 5)))
    return project.root


def write_nifti(path: Path, values: np.ndarray, geometry: Geometry) -> Path:
    """Write an array (Z, Y, X) in canonical order as a NIfTI file, into a folder that is made.

    Args:
        path: The file.
        values: The array; its type becomes that of the file.
        geometry: Its geometry.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(geometry.to_source(values), geometry.matrix), path)
    return path


def _coarse_phantom(folder: Path, seed: int) -> tuple[Path, np.ndarray]:
    scan, labels, geometry = make_phantom(seed, (32, 56, 56), (10.0, 6.4, 6.4))
    return write_nifti(folder / f"phantom_{seed}.nii.gz", scan, geometry), labels


def torso(folder: Path) -> Scene | None:
    """The upper half of a real CT (CC BY 4.0, doi:10.7937/ERZ5-QZ59), for the pictures of the docs."""
    data = DATA / "CT_demo" / "torso_cervical"
    if not data.is_dir():
        return None
    box = (slice(30, 210), slice(55, 200), slice(150, 280))  # i, j, k: most of the air around it left out
    path = folder / "torso_ct.nii.gz"
    image = nibabel.load(data / "imagesTr" / "torso_ct.nii.gz").slicer[box]
    nibabel.save(image, path)
    with TemporaryDirectory() as scratch:
        cut = Path(scratch) / "labels.nii.gz"
        nibabel.save(nibabel.load(data / "labelsTr" / "torso_ct.nii.gz").slicer[box], cut)
        labels = read_labels(cut).array
    truth = np.select([labels == 1, (labels == 2) | (labels == 3)], [1, 2]).astype(np.uint8)
    return Scene(path, truth, ("Liver", "Lungs"))


def beside_the_torso(folder: Path) -> None:
    """A crop of another abdominal CT (MSD Task09 Spleen, CC BY-SA 4.0), so that there are two people."""
    for path in (DATA / "CT_demo" / "msd_spleen_crop" / "imagesTr").glob("*.nii.gz"):
        (folder / path.name).write_bytes(path.read_bytes())


def sequences(
    seed: int, shape_zyx: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Geometry]:
    """Two made-up MR sequences of a synthetic trunk: arrays (Z, Y, X), class ids, geometry."""
    scan, labels, geometry = make_phantom(seed, shape_zyx, spacing_mm)
    random = np.random.default_rng(seed)
    tissue = np.clip(scan + 1000.0, 0, 1500) / 5
    pair = (tissue, np.where(tissue > 60, 330 - tissue, 0))
    first, second = (np.hypot(each + random.normal(0, 6, shape_zyx), 6).astype(np.float32) for each in pair)
    return first, second, labels, geometry


def phantom(folder: Path) -> Scene:
    """A synthetic CT, for where there are no data: its liver."""
    scan, labels, geometry = make_phantom(0)
    path = write_nifti(folder / "phantom.nii.gz", scan, geometry)
    return Scene(path, np.where(labels == 1, 1, 0).astype(np.uint8), ("Liver",))


def small_phantom(folder: Path) -> Scene:
    """The same of fewer and larger voxels, which is quick to paint and to train on."""
    path, labels = _coarse_phantom(folder, 0)
    return Scene(path, np.where(labels == 1, 1, 0).astype(np.uint8), ("Liver",))


def add_scans(project: Project, folder: Path, names: Iterable[str]) -> None:
    """Add small scans of noise, a file for each name."""
    for number, name in enumerate(names):
        values = np.random.default_rng(number).normal(size=(12, 10, 8)).astype(np.float32)
        path = folder / f"{name}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.5, -1.5, 4, 1])), path)
        project.add_scan(path)
