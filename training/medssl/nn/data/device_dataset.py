"""All scans of a job, on the device: nothing is read, decoded or copied between steps.

Where memory has no room for them they stay in their files, mapped: a step then reads the pages it cuts from.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from medssl.core import environment
from medssl.core.errors import UserError
from medssl.core.jobs import Plan
from medssl.core.project.project import IGNORE, Project
from medssl.nn import devices

ROOM = 0.5
"""Share of the memory that images may take; networks, patches and the viewer need the rest."""


@dataclass(frozen=True)
class DeviceDataset:
    """Scans in work order (slice, row, column) as tensors on one device.

    `images[i]` is float32 on the CPU and float16 on an accelerator, or float16 in its mapped file;
    `targets[i]`, where the scan takes part in supervised training, uint8 with 0 background, 1..K classes,
    255 not annotated.
    """

    ids: tuple[str, ...]
    images: tuple[Tensor, ...]
    spacing_mm: tuple[tuple[float, float, float], ...]
    targets: tuple[Tensor, ...] = ()
    works_on: torch.device | None = None
    """Where patches go; None for where the images are."""

    @property
    def device(self) -> torch.device:
        """Where patches and targets are."""
        return self.works_on or self.images[0].device

    def __len__(self) -> int:
        return len(self.images)

    def part(self, scans: Sequence[int]) -> DeviceDataset:
        """Those scans alone, sharing their tensors."""
        return replace(
            self,
            ids=tuple(self.ids[scan] for scan in scans),
            images=tuple(self.images[scan] for scan in scans),
            spacing_mm=tuple(self.spacing_mm[scan] for scan in scans),
            targets=tuple(self.targets[scan] for scan in scans) if self.targets else (),
        )


def load_device_dataset(
    project: Project,
    scans: Sequence[str],
    plan: Plan,
    device: torch.device,
    class_ids: Sequence[int] | None = None,
) -> DeviceDataset:
    """Bring scans onto the device, and with `class_ids` their training targets, numbered 1..K in that order.

    Raises UserError ("no-scans", "no-annotation", "memory") where there is nothing to train on or no room.
    """
    if not scans:
        raise UserError(
            f"{project.root} has no scan to train on; add scans, or hold fewer of them out.", code="no-scans"
        )
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    mapped = image_bytes(project, scans, device) == 0
    voxels = _voxels(project, scans)
    images: Iterable[Tensor]
    targets: tuple[Tensor, ...] = ()
    try:
        if mapped:
            images = (_mapped(project.image(scan), plan) for scan in scans)
        else:
            images = (_to_work_order(project.image(scan), plan) for scan in scans)
            images = in_one_storage(images, torch.empty(voxels, dtype=dtype, device=device))
        images = tuple(images)
        if class_ids is not None:
            known = (_to_work_order(_target(project, scan, class_ids), plan) for scan in scans)
            targets = in_one_storage(known, torch.empty(voxels, dtype=torch.uint8, device=device))
    except (RuntimeError, MemoryError) as error:
        if not devices.out_of_memory(error):
            raise
        raise UserError(
            f"The {len(scans)} scans do not fit into the memory of {device}; train on fewer scans or choose "
            "--device cpu.",
            code="memory",
        ) from error
    spacings = [project.scans[scan].geometry.spacing_mm for scan in scans]
    turned = tuple(tuple(float(each[axis]) for axis in plan.work_axes) for each in spacings)
    return DeviceDataset(tuple(scans), images, turned, targets, device)  # type: ignore[arg-type]


def complete_slices(target: Tensor) -> list[int]:
    """The slices of a target (slices, rows, columns) of which every voxel is annotated, rising."""
    found: list[int] = (target != IGNORE).flatten(1).all(1).nonzero()[:, 0].tolist()
    return found


def in_one_storage(tensors: Iterable[Tensor], room: Tensor) -> tuple[Tensor, ...]:
    """Copies of the tensors, one behind the other in `room` (N,), on its device and of its kind.

    Patches of several scans can then be cut in one go (interpolation.py).
    """
    parts = []
    for tensor in tensors:
        part, room = room[: tensor.numel()].view(tensor.shape), room[tensor.numel() :]
        parts.append(part.copy_(tensor))
    return tuple(parts)


def image_bytes(project: Project, scans: Sequence[str], device: torch.device) -> int:
    """Memory of the device that the images of scans take in a pool; 0 where they stay in their files."""
    size, there = (4 if device.type == "cpu" else 2) * _voxels(project, scans), environment.memory()
    if device.type == "cuda":
        there = torch.cuda.mem_get_info(device)[1]
    return size if not there or size <= ROOM * there else 0


def _voxels(project: Project, scans: Sequence[str]) -> int:
    return sum(math.prod(project.scans[scan].geometry.shape_zyx) for scan in scans)


def join(annotated: DeviceDataset, others: DeviceDataset) -> DeviceDataset:
    """One pool of both, sharing their tensors; the others' targets are empty (nothing annotated)."""
    unknown = torch.tensor(IGNORE, dtype=torch.uint8, device=others.device)
    return replace(
        annotated,
        ids=annotated.ids + others.ids,
        images=annotated.images + others.images,
        spacing_mm=annotated.spacing_mm + others.spacing_mm,
        targets=annotated.targets + tuple(unknown.expand(image.shape) for image in others.images),
    )


def _mapped(image: np.ndarray, plan: Plan) -> Tensor:
    """A memory-mapped image as a tensor over its file's pages."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nobody writes to images
        return torch.from_numpy(np.transpose(image, plan.work_axes))


def _to_work_order(array: np.ndarray, plan: Plan) -> Tensor:
    # A copy of its own, whose rows lie together: what has room in memory is not read from the file again.
    return torch.from_numpy(np.array(np.transpose(array, plan.work_axes), order="C"))


def _target(project: Project, scan: str, class_ids: Sequence[int]) -> np.ndarray:
    annotation = project.annotation(scan)
    target = None if annotation is None else annotation.target()
    if target is None or (target == IGNORE).all():
        raise UserError(
            f"{scan} has no annotated voxel; paint some slices of it or leave it out.", code="no-annotation"
        )
    unknown = set(np.unique(target).tolist()) - {0, IGNORE, *class_ids}
    if unknown:
        raise UserError(
            f"The annotation of {scan} holds {sorted(unknown)}, which is no class of the project; add the "
            "class or repaint those voxels.",
            code="unknown-class",
        )
    return numbered(target, class_ids)


def numbered(target: np.ndarray, class_ids: Sequence[int]) -> np.ndarray:
    """A target with its classes numbered 1..K in that order; what is no class of them becomes IGNORE."""
    number = np.full(256, IGNORE, np.uint8)
    number[[0, *class_ids]] = np.arange(len(class_ids) + 1)
    return number[target]
