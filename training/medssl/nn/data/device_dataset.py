"""All scans of a job on the device, so that no file is read, decoded or copied between steps.

Images that do not fit into memory stay memory-mapped; a step then reads only the pages that it crops from.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import add

import numpy as np
import torch
from torch import Tensor

from medssl.core import environment, ranks
from medssl.core.errors import UserError
from medssl.core.jobs import Plan
from medssl.core.project.project import IGNORE, Project
from medssl.nn import devices

MAX_MEMORY_FRACTION = 0.5
"""Fraction of the memory that images may take; networks, crops and the viewer need the rest."""


@dataclass(frozen=True)
class DeviceDataset:
    """Scans in work order (slice, row, column) as tensors on one device.

    Attributes:
        ids: Scan ids.
        images: Images (slices, rows, columns): float32 on the CPU, float16 on an accelerator or
            memory-mapped.
        spacing_mm: Voxel spacing of each scan in mm, in work order.
        targets: Targets (slices, rows, columns) uint8 for supervised training: 0 background, 1..K classes,
            255 not annotated; empty otherwise.
        works_on: Device of crops and targets; None for that of the images.
        further: Images of the channels after the first, for each channel those of all scans in the shapes of
            `images`; empty for one channel.
    """

    ids: tuple[str, ...]
    images: tuple[Tensor, ...]
    spacing_mm: tuple[tuple[float, float, float], ...]
    targets: tuple[Tensor, ...] = ()
    works_on: torch.device | None = None
    further: tuple[tuple[Tensor, ...], ...] = ()

    @property
    def device(self) -> torch.device:
        """Device of crops and targets."""
        return self.works_on or self.images[0].device

    def __len__(self) -> int:
        return len(self.images)

    @property
    def channels(self) -> tuple[tuple[Tensor, ...], ...]:
        """For each channel the images of all scans."""
        return (self.images, *self.further)

    def slices(self, scan: int, first: int, last: int) -> tuple[Tensor, ...]:
        """Slices first..last - 1 of all channels of a scan, each (n, rows, columns)."""
        return tuple(images[scan][first:last] for images in self.channels)

    def part(self, scans: Sequence[int]) -> DeviceDataset:
        """A dataset of the scans with these indices; shares their tensors."""
        return replace(
            self,
            ids=tuple(self.ids[scan] for scan in scans),
            images=tuple(self.images[scan] for scan in scans),
            spacing_mm=tuple(self.spacing_mm[scan] for scan in scans),
            targets=tuple(self.targets[scan] for scan in scans) if self.targets else (),
            further=tuple(tuple(images[scan] for scan in scans) for images in self.further),
        )


def load_device_dataset(
    project: Project,
    scans: Sequence[str],
    plan: Plan,
    device: torch.device,
    class_ids: Sequence[int] | None = None,
) -> DeviceDataset:
    """Load scans of a project onto a device.

    Args:
        project: Project that holds the scans.
        scans: Scan ids.
        plan: Gives the channels, and the work order of the axes.
        device: Device of the images, or of crops alone where the images stay memory-mapped.
        class_ids: Also load the targets, with these classes numbered 1..K in this order.

    Raises:
        UserError: "no-scans" without scans, "no-channel" for a scan that lacks one, "no-annotation" or
            "unknown-class" for a target that cannot be trained on, "memory" if the scans do not fit.
    """
    if not scans:
        raise UserError(
            f"{project.root} has no scan to train on; add scans or hold out fewer of them.", code="no-scans"
        )
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    mapped = image_bytes(project, scans, device, plan.n_channels) == 0
    voxels = _voxels(project, scans)
    targets: tuple[Tensor, ...] = ()
    try:
        images, *further = [
            tuple(_mapped(image, plan) for image in channel)
            if mapped
            else in_one_storage(
                (_to_work_order(image, plan) for image in channel),
                torch.empty(voxels, dtype=dtype, device=device),
            )
            for channel in _by_channel(project, scans, plan)
        ]
        if class_ids is not None:
            loaded = (_to_work_order(_target(project, scan, class_ids), plan) for scan in scans)
            targets = in_one_storage(loaded, torch.empty(voxels, dtype=torch.uint8, device=device))
    except (RuntimeError, MemoryError) as error:
        if not devices.out_of_memory(error):
            raise
        raise UserError(
            f"{len(scans)} scans do not fit into the memory of {device}; train on fewer scans or choose "
            "--device cpu.",
            code="memory",
        ) from error
    spacings = [project.scans[scan].geometry.spacing_mm for scan in scans]
    in_work_order = tuple(tuple(float(spacing[axis]) for axis in plan.work_axes) for spacing in spacings)
    return DeviceDataset(tuple(scans), images, in_work_order, targets, device, tuple(further))  # type: ignore[arg-type]


def _by_channel(project: Project, scans: Sequence[str], plan: Plan) -> Iterator[Iterator[np.ndarray]]:
    """For each channel the images of all scans (Z, Y, X), opened one after the other."""
    for number in range(plan.n_channels):
        yield (project.images(scan, plan.channel_names)[number] for scan in scans)


def complete_slices(target: Tensor) -> list[int]:
    """Numbers of the completely annotated slices of a target, ascending.

    Args:
        target: Target (slices, rows, columns) uint8; 255 is not annotated.
    """
    slices: list[int] = (target != IGNORE).flatten(1).all(1).nonzero()[:, 0].tolist()
    return slices


def in_one_storage(tensors: Iterable[Tensor], buffer: Tensor) -> tuple[Tensor, ...]:
    """Copy tensors one after the other into a buffer, from which crops of several scans are cut in one batch
    (interpolation.py).

    Args:
        tensors: Tensors of any shape, N elements in all.
        buffer: Buffer (N,) whose device and dtype the copies take.

    Returns:
        Views into the buffer, of the tensors' shapes.
    """
    views = []
    for tensor in tensors:
        view, buffer = buffer[: tensor.numel()].view(tensor.shape), buffer[tensor.numel() :]
        views.append(view.copy_(tensor))
    return tuple(views)


def image_bytes(project: Project, scans: Sequence[str], device: torch.device, channels: int = 1) -> int:
    """Bytes of device memory that the images of a dataset take; 0 if they stay memory-mapped."""
    size = (4 if device.type == "cpu" else 2) * channels * _voxels(project, scans)
    memory = environment.memory() // ranks.local_world()  # each process has a copy
    if device.type == "cuda":
        memory = torch.cuda.mem_get_info(device)[1]
    return size if not memory or size <= MAX_MEMORY_FRACTION * memory else 0


def _voxels(project: Project, scans: Sequence[str]) -> int:
    return sum(math.prod(project.scans[scan].geometry.shape_zyx) for scan in scans)


def join(annotated: DeviceDataset, unannotated: DeviceDataset) -> DeviceDataset:
    """Concatenate two datasets, sharing their tensors; the second one's targets are 255 throughout."""
    ignore = torch.tensor(IGNORE, dtype=torch.uint8, device=unannotated.device)
    return replace(
        annotated,
        ids=annotated.ids + unannotated.ids,
        images=annotated.images + unannotated.images,
        spacing_mm=annotated.spacing_mm + unannotated.spacing_mm,
        targets=annotated.targets + tuple(ignore.expand(image.shape) for image in unannotated.images),
        further=tuple(map(add, annotated.further, unannotated.further)),
    )


def _mapped(image: np.ndarray, plan: Plan) -> Tensor:
    """A memory-mapped image as a tensor in work order, without a copy."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # images are only read
        return torch.from_numpy(np.transpose(image, plan.work_axes))


def _to_work_order(array: np.ndarray, plan: Plan) -> Tensor:
    # A contiguous copy: what fits into memory is not read from the mapped file again.
    return torch.from_numpy(np.array(np.transpose(array, plan.work_axes), order="C"))


def _target(project: Project, scan: str, class_ids: Sequence[int]) -> np.ndarray:
    annotation, title = project.annotation(scan), project.scans[scan].title
    target = None if annotation is None else annotation.target()
    if target is None or (target == IGNORE).all():
        raise UserError(
            f"{title} has no annotated voxel; annotate some of its slices or leave it out.",
            code="no-annotation",
        )
    unknown = set(np.unique(target).tolist()) - {0, IGNORE, *class_ids}
    if unknown:
        raise UserError(
            f"The annotation of {title} has labels {sorted(unknown)} that are not classes of the project; "
            "add the classes or repaint these voxels.",
            code="unknown-class",
        )
    return numbered(target, class_ids)


def numbered(target: np.ndarray, class_ids: Sequence[int]) -> np.ndarray:
    """Renumber the classes of a target.

    Args:
        target: Target of any shape, uint8.
        class_ids: Labels that become 1..K in this order; 0 stays, all others become 255.

    Returns:
        Target of the same shape, uint8.
    """
    number = np.full(256, IGNORE, np.uint8)
    number[[0, *class_ids]] = np.arange(len(class_ids) + 1)
    return number[target]
