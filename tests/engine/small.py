"""Small scans, plans, networks and projects for the engine's tests: everything in fractions of a second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import torch
from medssl import engine
from medssl.benchmarking.simulated_annotator import annotate, choose_slices
from medssl.core.events import Event
from medssl.core.jobs import FinetuneJob, Plan, PretrainJob, TrainingJob
from medssl.core.methods import METHODS
from medssl.core.project.project import LabelClass, Project
from medssl.core.settings import PLAN_NAMES
from medssl.nn.data.crops import CropBatch
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.methods import find
from torch import Tensor

CPU = torch.device("cpu")
SETTINGS: dict[str, Any] = {
    "precision": "fp32",
    "threads": 1,
    "batch": 2,
    "hidden": 16,
    "dimension": 8,
    "queue": 5,
    "slices": 4,
    "side": 48,
}
"""What makes a pre-training small and repeatable; a method takes those that it knows."""
FINETUNE: dict[str, Any] = {"precision": "fp32", "threads": 1, "batch": 2}

Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plan(dims: int = 2, **changes: Any) -> Plan:
    """Two levels, a stride of 4 in the plane, 1 mm."""
    patch: Shape = (3, 16, 16) if dims == 2 else (8, 16, 16)
    small = Plan(
        dims=dims,
        slice_axis=0,
        spacing_mm=(0.0 if dims == 2 else 1.0, 1.0, 1.0),
        patch_vox=patch,
        batch=4,
        channels=(4, 8, 8),
        strides=((1, 1), (2, 2), (2, 2)) if dims == 2 else ((1, 1, 1), (1, 2, 2), (2, 2, 2)),
        threads=1,
    )
    return replace(small, **changes)


def dataset(
    *images: Tensor, spacing_mm: Spacing = (1.0, 1.0, 1.0), targets: Sequence[Tensor] = ()
) -> DeviceDataset:
    """A pool of these images, all of one spacing."""
    names = tuple(f"scan-{number}" for number in range(len(images)))
    return DeviceDataset(names, tuple(images), (spacing_mm,) * len(images), tuple(targets))


def noise(shape: Shape, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


def ramps(
    shape: Shape, spacing_mm: Spacing = (1.0, 1.0, 1.0)
) -> tuple[DeviceDataset, DeviceDataset, DeviceDataset]:
    """Three pools whose one image is its own slice, row and column index."""
    grids = torch.meshgrid(*(torch.arange(float(length)) for length in shape), indexing="ij")
    first, second, third = (dataset(grid.contiguous(), spacing_mm=spacing_mm) for grid in grids)
    return first, second, third


def box(
    centre: Sequence[float],
    size: Shape,
    step: Sequence[float] = (1, 1, 1),
    flip: Sequence[bool] = (False, False, False),
    angle: float = 0.0,
) -> CropBatch:
    """One view of scan 0."""
    return CropBatch(
        size,
        torch.tensor([0]),
        torch.tensor([centre], dtype=torch.float32),
        torch.tensor([step], dtype=torch.float32),
        torch.tensor([flip]),
        torch.tensor([angle]),
    )


def stacked(views: Sequence[CropBatch]) -> CropBatch:
    """Several views as one batch."""
    parts = ("scan", "centre", "step", "flip", "angle")
    return CropBatch(views[0].size, *(torch.cat([getattr(each, part) for each in views]) for part in parts))


def voxel_positions(views: CropBatch) -> Tensor:
    """(B, D, H, W, 3): where `to_scan` says that every voxel of the views lies."""
    axes = [torch.arange(float(length)) for length in views.size]
    index = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    affine = views.to_scan()
    scan = index @ affine[:, :, :3].transpose(1, 2) + affine[:, None, :, 3]
    return scan.reshape(len(views), *views.size, 3)


def block_phantom(seed: int, shape: Shape = (24, 32, 32)) -> tuple[np.ndarray, np.ndarray]:
    """A bright box at a random place in noise, two thirds of the shortest side and a third of the others:
    image (Z, Y, X) float32 and labels uint8 with class 1."""
    random = np.random.default_rng(seed)
    side = [length // 3 * (2 if axis == np.argmin(shape) else 1) for axis, length in enumerate(shape)]
    low = [int(random.integers(1, length - each)) for length, each in zip(shape, side, strict=True)]
    labels = np.zeros(shape, np.uint8)
    labels[tuple(slice(at, at + each) for at, each in zip(low, side, strict=True))] = 1
    image = random.normal(0, 0.15, shape) + 2.0 * labels
    return image.astype(np.float32), labels


def write_nifti(path: Path, array_zyx: np.ndarray, spacing_zyx: Spacing = (1.0, 1.0, 1.0)) -> Path:
    """The array as a NIfTI file in canonical directions (x, y, z towards right, anterior, superior)."""
    affine = np.diag([*reversed(spacing_zyx), 1.0])
    nib.save(nib.Nifti1Image(np.ascontiguousarray(array_zyx.T), affine), path)
    return path


def make_project(
    folder: Path,
    seeds: Sequence[int] = (0, 1),
    *,
    shape: Shape = (24, 32, 32),
    spacing_zyx: Spacing = (1.0, 1.0, 1.0),
    slices: int = 5,
    axis: int = 0,
    annotated: int = 1,
) -> Project:
    """A project of block phantoms; the first `annotated` scans have `slices` complete slices along `axis`."""
    folder.mkdir(parents=True, exist_ok=True)
    project = Project.create(folder / "project", (LabelClass(1, "block", "#ff0000"),))
    for number, seed in enumerate(seeds):
        image, labels = block_phantom(seed, shape)
        scan = project.add_scan(write_nifti(folder / f"block-{seed}.nii", image, spacing_zyx))
        if number < annotated:
            project.save_annotation(scan.id, annotate(labels, choose_slices(labels, slices, axis), axis))
    return project


def scan_of(image: np.ndarray, spacing: Spacing) -> Project:
    """A project whose one scan, "only", is this image; there is nothing else in it."""
    scans = {"only": SimpleNamespace(geometry=SimpleNamespace(spacing_mm=spacing))}
    only: Any = SimpleNamespace(image=lambda scan: image, images=lambda scan, channels: (image,), scans=scans)
    return only


def dice(one: np.ndarray, two: np.ndarray) -> float:
    return float(2 * np.logical_and(one, two).sum() / max(1, one.astype(bool).sum() + two.astype(bool).sum()))


def never() -> bool:
    return False


class Events(list[Event]):
    """Collects what a job says: `Events()` is an Emit."""

    def __call__(self, event: Event) -> None:
        self.append(event)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self if isinstance(event, kind)]


SHAPE: Shape = (12, 24, 24)
ROUNDS = {
    "rounds": [0.3, 0.7],
    "max_round_share": 1.0,
    "start_below_loss": 100.0,
    "confidence_threshold": 0.0,
}
"""Fine-tuning learns from its pseudo-labels that early, whatever they are worth."""


def job_of(kind: str, project: Project, **changes: Any) -> TrainingJob:
    """A training of ten small steps; those that fine-tune learn from their pseudo-labels after 3 and 7.

    It runs on the CPU, where the same seed gives the same bits.

    kind: a method of pre-training, or "finetune", which "-3d" and a choice of `semi_supervised` may follow.
    """
    common: dict[str, Any] = {"project": str(project.root), "steps": 10, "device": "cpu"}
    if kind in METHODS:
        known = {*PLAN_NAMES, *(field.name for field in fields(find(kind).Settings))}
        settings = {name: value for name, value in SETTINGS.items() if name in known}
        return PretrainJob(**{**common, "method": kind, "settings": settings, **changes})
    shape = {"dims": 3, "patch": [8, 16, 16]} if "-3d" in kind else {}
    semi_supervised = kind.replace("-3d", "").partition("-")[2] or "self_training"
    settings = {**FINETUNE, **shape, **({} if semi_supervised == "none" else ROUNDS)}
    return FinetuneJob(**{**common, "settings": settings, "semi_supervised": semi_supervised, **changes})


def run(job: Any, events: Events | None = None, should_stop: Callable[[], bool] = never) -> dict[str, Any]:
    return engine.run(job, events if events is not None else Events(), should_stop)


def stop_after(steps: int) -> Callable[[], bool]:
    asked = iter(range(10_000))
    return lambda: next(asked) >= steps
