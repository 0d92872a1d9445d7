"""Sample data: a synthetic CT of a torso, computed locally (nothing is downloaded)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from medssl.core.project.project import Annotation, Project, is_project

SEED = 1
PHANTOMS = "phantoms"
"""Folder of the sample project with its scans."""
N_PAINTED = 5


def phantom() -> list[tuple[Any, ...]]:
    """A synthetic CT as an image layer."""
    return phantom_with_labels()[:1]


def phantom_with_labels() -> list[tuple[Any, ...]]:
    """A synthetic CT and its organs as an image layer and a labels layer."""
    from medssl.core.phantom import CLASSES, make_phantom

    from napari_medssl import layers

    scan, labels, geometry = make_phantom(SEED)
    image = layers.scan_data(scan, geometry, "phantom CT")
    data, kwargs, kind = layers.labels_data(labels, geometry, "phantom organs")
    return [image, (data, {**kwargs, "colormap": layers.colormap(CLASSES), "opacity": 0.5}, kind)]


def sample_project_place() -> Path:
    """Folder of the sample project."""
    return Path.home() / "medssl-sample"


def make_sample_project(folder: Path) -> None:
    """Make a project of two synthetic CTs, unless it is complete; takes a few seconds.

    In the first, some slices are painted. The second has reference labels, so that the Dice of a prediction
    is shown.

    Args:
        folder: The project folder.

    Raises:
        UserError: "not-writable", "disk-full".
    """
    from medssl.core.io.labels import read_labels
    from medssl.core.phantom import CLASSES, write_dataset

    if is_project(folder) and Project.open(folder).annotated():
        return
    data = write_dataset(folder / PHANTOMS, (SEED, SEED + 1))
    project = Project.create(folder, CLASSES, or_open=True)
    names = sorted(path.name for path in (data / "imagesTr").iterdir())
    painted, test = (project.add_scan(data / "imagesTr" / name) for name in names)
    truth = read_labels(data / "labelsTr" / names[0]).array
    slices = np.linspace(0, len(truth) - 1, N_PAINTED + 2).round().astype(int)[1:-1]
    labels = np.zeros_like(truth)
    labels[slices] = truth[slices]
    project.set_reference(test.id, data / "labelsTr" / names[1])
    project.save_annotation(painted.id, Annotation(labels, tuple((0, int(index)) for index in slices)))


def is_sample(project: Project) -> bool:
    """Whether a project is the sample project."""
    inside = f"{project.root.absolute() / PHANTOMS}{os.sep}"
    return any(scan.source.startswith(inside) for scan in project.scans.values())
