"""Parts shared by several methods: pairs of views, heads, the EMA teacher, a measure of collapse."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from medssl.core.errors import UserError
from medssl.core.jobs import Plan
from medssl.nn.data.augment import PUBLISHED, change_intensity
from medssl.nn.data.crop_sampling import sample_pairs
from medssl.nn.data.crops import CropBatch, crop_step, cut, scan_shapes, shown
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.models.unet import Network
from medssl.nn.shards import BatchNorm, shard, std_row


def view_size(dataset: DeviceDataset, plan: Plan, zoom: float) -> tuple[int, int, int]:
    """Size of the views: the plan's patch, smaller if `zoom` patches do not fit into a typical scan.

    Args:
        dataset: Scans.
        plan: Gives the patch and the strides.
        zoom: Largest side of a view in patches.

    Returns:
        Voxels (slices, rows, columns); rows and columns are multiples of the network's stride, and at least
        two cells.
    """
    every = torch.arange(len(dataset))
    fits = (scan_shapes(dataset, every) / crop_step(dataset, plan, every)).median(0).values / zoom
    total = [math.prod(step[axis] for step in plan.strides) for axis in range(plan.dims)]
    size = list(plan.patch_vox)
    for axis in (1, 2):
        stride = total[axis - 3]
        size[axis] = min(size[axis], max(2 * stride, int(fits[axis]) // stride * stride))
    return (size[0], size[1], size[2])


def sample_view_pairs(
    dataset: DeviceDataset,
    plan: Plan,
    generator: Generator,
    *,
    zoom: tuple[float, float],
    min_overlap: float = 0.0,
    shared: float = 0.0,
    level: int = -1,
    apart: bool = False,
) -> tuple[CropBatch, CropBatch]:
    """Draw a batch of pairs of overlapping views, each pair from one scan.

    Args:
        dataset: Scans.
        plan: Gives the batch size B and the patch.
        generator: CPU generator of all draws.
        zoom: Range of a view's side in patches.
        min_overlap: Least intersection over union of a pair.
        shared: Least fraction of a side that a pair shares along every axis.
        level: Encoder level of which a pair shares at least one cell along every axis.
        apart: Draw a second pair from a scan only after each scan has given one.

    Returns:
        First and second views, not cut yet.
    """
    size = view_size(dataset, plan, zoom[1])
    # A cell grows with its view; in 2.5D both views lie on one slice, so the slice axis is not constrained.
    min_cells = [math.ceil(span * zoom[1]) for span in cell(plan, level)]
    for axis in range(3 - plan.dims, 3):
        min_cells[axis] = max(min_cells[axis], math.ceil(shared * size[axis] * (zoom[1] if axis else 1)))
    scan = draw_scans(len(dataset), plan.batch, generator) if apart else None
    return sample_pairs(
        dataset, plan, size, generator, zoom=zoom, min_overlap=min_overlap, min_cells=min_cells, scan=scan
    )


def cell(plan: Plan, level: int) -> tuple[float, ...]:
    """Working voxels per feature cell of an encoder level, in work order; 0 across the slices of 2.5D."""
    strides = plan.strides[: len(plan.strides) + 1 + level]
    spans = [math.prod(stride[axis] for stride in strides) for axis in range(plan.dims)]
    return (0.0, *spans) if plan.dims == 2 else tuple(spans)


def cut_pair(
    dataset: DeviceDataset, plan: Plan, pair: tuple[CropBatch, CropBatch], generator: Generator
) -> tuple[CropBatch, CropBatch]:
    """Cut both views of this process's shard, with the published intensity augmentation drawn for each.

    Args:
        dataset: Scans.
        plan: Says whether views are 2.5D or 3D.
        pair: First and second views of the whole batch.
        generator: CPU generator of all draws.
    """
    own = shard(len(pair[0]))
    first, second = (cut(dataset, own.of(views), plan) for views in pair)
    both = torch.cat([shown(first), shown(second)])
    images = change_intensity(both, PUBLISHED, generator, plan.n_channels, own.pairs())
    return replace(first, image=images[: len(first)]), replace(second, image=images[len(first) :])


def draw_scans(count: int, batch: int, generator: Generator) -> Tensor:
    """Draw scan indices (batch,) below `count`; none repeats before all have been drawn."""
    rounds = -(-batch // count)
    return torch.cat([torch.randperm(count, generator=generator) for _ in range(rounds)])[:batch]


def check_positive(settings: Any, *names: str) -> None:
    """Check that settings are above 0.

    Raises:
        UserError: "bad-job" if one of the named settings is not.
    """
    for name in names:
        value = getattr(settings, name)
        if value <= 0:
            raise UserError(f"{name} is {value}; set it to a number above 0.", code="bad-job")


def check_positions(dataset: DeviceDataset, plan: Plan, zoom: float, method: str) -> None:
    """Check that the scans have at least two different positions: slices in 2.5D, disjoint boxes in 3D.

    Args:
        dataset: Scans.
        plan: Says whether views are 2.5D or 3D.
        zoom: Largest side of a view in patches.
        method: Name of the method, for the message.

    Raises:
        UserError: "one-place" if there is only one.
    """
    every = torch.arange(len(dataset))
    size = torch.tensor(view_size(dataset, plan, zoom))
    boxes = (scan_shapes(dataset, every) / (crop_step(dataset, plan, every) * size)).floor().clamp(min=1)
    positions = scan_shapes(dataset, every)[:, 0] if plan.dims == 2 else boxes.prod(1)
    if positions.sum() < 2:
        raise UserError(
            f"{method} needs views of different positions, and the only scan has one; add scans or choose "
            "mae.",
            code="one-place",
        )


def pooled(features: Tensor) -> Tensor:
    """Global average pooling.

    Args:
        features: Feature maps (B, C, ...).

    Returns:
        Vectors (B, C) float32.
    """
    return features.float().flatten(2).mean(2)


def mlp(in_features: int, hidden: int, out_features: int, *, norm: bool) -> nn.Sequential:
    """Projector or predictor of pooled features: linear, batch norm if `norm`, ReLU, linear."""
    batch_norm = [BatchNorm(hidden)] if norm else []
    return nn.Sequential(
        nn.Linear(in_features, hidden, bias=not norm),
        *batch_norm,
        nn.ReLU(inplace=True),
        nn.Linear(hidden, out_features),
    )


def check_batch(batch: int, method: str, reason: str, instead: str) -> None:
    """Check that a batch has at least two pairs; short memory may have reduced it.

    Raises:
        UserError: "small-batch" otherwise.
    """
    if batch < 2:
        raise UserError(
            f"{method} cannot train with a batch of one pair of views, because {reason}; set a batch of "
            f"2 or more (with a smaller patch if memory is short) or choose {instead}.",
            code="small-batch",
        )


class Head(nn.Sequential):
    """Projector or predictor of every cell: 1x1 convolution, batch norm, ReLU, 1x1 convolution."""

    def __init__(self, dims: int, in_channels: int, hidden: int, out_channels: int) -> None:
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        super().__init__(
            convolution(in_channels, hidden, 1, bias=False),
            BatchNorm(hidden),
            nn.ReLU(inplace=True),
            convolution(hidden, out_channels, 1),
        )


class Prototypes(nn.Linear):
    """Prototypes that features are compared with by cosine; they have no weight decay."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__(width, count, bias=False)


def teacher_of(network: Network, projector: nn.Module) -> nn.ModuleDict:
    """Frozen copies of encoder and projector: teacher and student start with the same weights."""
    teacher = nn.ModuleDict(
        {"encoder": copy.deepcopy(network.encoder), "projector": copy.deepcopy(projector)}
    )
    return teacher.requires_grad_(False)


def network_of(modules: nn.ModuleDict) -> Network:
    """The network that a method trains."""
    return cast(Network, modules["network"])


def teacher_in(modules: nn.ModuleDict) -> nn.ModuleDict:
    """The teacher of a method: "encoder", "projector", and further modules of the method."""
    return cast(nn.ModuleDict, modules["teacher"])


def teacher_forward(teacher: nn.ModuleDict, images: Tensor) -> list[Tensor]:
    """Compute the teacher's feature maps.

    Args:
        teacher: Modules with an "encoder".
        images: Images (B, S, H, W) or (B, 1, D, H, W).

    Returns:
        Feature maps of all levels, finest first (B, C, ...).
    """
    return [*teacher["encoder"](images)]


def update_teacher(modules: nn.ModuleDict, keep: float) -> None:
    """Update the teacher's encoder and projector by EMA; its batch norms keep their own running statistics.

    Args:
        modules: "network", "projector" and "teacher".
        keep: Momentum of the EMA.
    """
    student = [*network_of(modules).encoder.parameters(), *modules["projector"].parameters()]
    teacher = teacher_in(modules)
    update_ema([*teacher["encoder"].parameters(), *teacher["projector"].parameters()], student, keep)


def stage_fraction(stages: Sequence[float], fraction: float) -> float:
    """Completed fraction of the current stage of a training.

    Args:
        stages: Fractions of the training at which its stages begin; the first is 0.
        fraction: Completed fraction of the training.

    Returns:
        Between 0 and 1.
    """
    current = max(number for number, start in enumerate(stages) if start <= fraction)
    start, end = stages[current], (*stages, 1.0)[current + 1]
    return (fraction - start) / max(1e-9, end - start)


def momentum(start: float, fraction: float) -> float:
    """Momentum of the teacher: cosine schedule from `start` to 1 (BYOL, arXiv 2006.07733)."""
    return 1 - (1 - start) * (math.cos(math.pi * fraction) + 1) / 2


@torch.no_grad()
def update_ema(teacher: Sequence[Tensor], student: Sequence[Tensor], keep: float) -> None:
    """Exponential moving average, in place: teacher <- keep * teacher + (1 - keep) * student.

    Args:
        teacher: Parameters of any shape.
        student: Parameters of the same shapes, in the same order.
        keep: Momentum.
    """
    torch._foreach_lerp_(list(teacher), list(student), 1 - keep)


def feature_std(features: Tensor) -> Tensor:
    """Standard deviation of the normalised features' channels, times sqrt(C): a measure of collapse.

    Args:
        features: Features (N, C) or feature maps (B, C, ...) of this process's shard; normalised here.

    Returns:
        Scalar: near 1 if the vectors are spread over the sphere, near 0 after a collapse.
    """
    unit = F.normalize(features.detach().float(), dim=1).movedim(1, -1).flatten(0, -2)
    return std_row(unit).mean() * math.sqrt(unit.shape[1])
