"""A project whose features say where in the body a cell lies, so that every search has a right answer."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from medssl.core.features.similarity import write_features
from medssl.core.project.project import Project

SHAPE = (16, 20, 24)
SPACING = (3.0, 1.5, 1.5)
STEP = (1, 2, 2)


def make_project(folder: Path, shifts: tuple[int, ...] = (0, 2, 3)) -> tuple[Project, str]:
    """Scans of one body, each moved by so many cells along all axes; the run whose features they have."""
    project = Project.create(folder / "project")
    run = project.new_run("pretrain", {"job": "pretrain", "method": "pgl"}, "pgl")
    run.checkpoint.write_bytes(b"weights")
    for number, shift in enumerate(shifts):
        values = np.random.default_rng(number).normal(size=SHAPE[::-1]).astype(np.float32)
        path = folder / f"scan{number}.nii"
        nibabel.save(nibabel.Nifti1Image(values, np.diag([*SPACING[::-1], 1])), path)
        write_features(project, project.add_scan(path).id, run.id, body(shift), STEP)
    return project, run.id


def body(shift: int) -> np.ndarray:
    """(Z', Y', X', 40) float16: smooth random waves over places, seen from a scan that is moved."""
    random = np.random.default_rng(7)
    cells = [np.arange(n // step) + shift for n, step in zip(SHAPE, STEP, strict=True)]
    place = np.stack(np.meshgrid(*cells, indexing="ij"), axis=-1)
    fourier_features = np.cos(place @ random.normal(0, 0.35, (3, 40)) + random.uniform(0, 6, 40))
    return (fourier_features / np.linalg.norm(fourier_features, axis=-1, keepdims=True)).astype(np.float16)


def moved(voxel: tuple[int, int, int], shift: int) -> tuple[int, int, int]:
    """Where a place of the first scan is in one that is moved by `shift` cells."""
    z, y, x = (at - shift * step for at, step in zip(voxel, STEP, strict=True))
    return z, y, x
