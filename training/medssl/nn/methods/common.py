"""What several methods share: pairs of views, heads, the teacher, a measure of collapse."""

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


def view_size(dataset: DeviceDataset, plan: Plan, zoom: float) -> tuple[int, int, int]:
    """The plan's patch, made smaller where `zoom` patches would not fit into a typical scan.

    Rows and columns stay multiples of the network's stride, and at least two cells.
    """
    every = torch.arange(len(dataset))
    fits = (scan_shapes(dataset, every) / crop_step(dataset, plan, every)).median(0).values / zoom
    total = [math.prod(step[axis] for step in plan.strides) for axis in range(plan.dims)]
    size = list(plan.patch_vox)
    for axis in (1, 2):
        stride = total[axis - 3]
        size[axis] = min(size[axis], max(2 * stride, int(fits[axis]) // stride * stride))
    return (size[0], size[1], size[2])


def place_pairs(
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
    """Where the next batch of pairs lies: boxes of `zoom` patches, two of one scan that overlap.

    They share `min_overlap` of their union, and along every axis `shared` of a side and a feature cell of
    `level` at least. With `apart` no scan gives a second pair before every scan has given one.
    """
    size = view_size(dataset, plan, zoom[1])
    # A cell grows with its box; in 2.5D both boxes lie on one slice, and there is nothing to ask across.
    least = [math.ceil(span * zoom[1]) for span in cell(plan, level)]
    for axis in range(3 - plan.dims, 3):
        least[axis] = max(least[axis], math.ceil(shared * size[axis] * (zoom[1] if axis else 1)))
    scan = draw_scans(len(dataset), plan.batch, generator) if apart else None
    return sample_pairs(
        dataset, plan, size, generator, zoom=zoom, min_overlap=min_overlap, min_cells=least, scan=scan
    )


def cell(plan: Plan, level: int) -> tuple[float, ...]:
    """Working voxels that one feature cell of that level spans, in work order; 0 across 2.5D's slices."""
    reached = plan.strides[: len(plan.strides) + 1 + level]
    spans = [math.prod(step[axis] for step in reached) for axis in range(plan.dims)]
    return (0.0, *spans) if plan.dims == 2 else tuple(spans)


def cut_pair(
    dataset: DeviceDataset, plan: Plan, pair: tuple[CropBatch, CropBatch], generator: Generator
) -> tuple[CropBatch, CropBatch]:
    """Both views with their images, each with the published grey-value changes, drawn by itself."""
    first, second = (cut(dataset, views, plan) for views in pair)
    images = change_intensity(torch.cat([shown(first), shown(second)]), PUBLISHED, generator)
    return replace(first, image=images[: len(first)]), replace(second, image=images[len(first) :])


def draw_scans(count: int, batch: int, generator: Generator) -> Tensor:
    """(batch,) numbers below `count`, none a second time before all have been drawn."""
    rounds = -(-batch // count)
    return torch.cat([torch.randperm(count, generator=generator) for _ in range(rounds)])[:batch]


def need_positive(settings: Any, *names: str) -> None:
    """Raises UserError ("bad-job") where one of these settings is 0 or less."""
    for name in names:
        value = getattr(settings, name)
        if value <= 0:
            raise UserError(f"{name} is {value}; write a number above 0.", code="bad-job")


def need_places(dataset: DeviceDataset, plan: Plan, zoom: float, method: str) -> None:
    """Raises UserError ("one-place") where no two boxes can show different tissue.

    In 2.5D slices are places of their own, in 3D boxes that do not touch.
    """
    every = torch.arange(len(dataset))
    size = torch.tensor(view_size(dataset, plan, zoom))
    boxes = (scan_shapes(dataset, every) / (crop_step(dataset, plan, every) * size)).floor().clamp(min=1)
    places = scan_shapes(dataset, every)[:, 0] if plan.dims == 2 else boxes.prod(1)
    if places.sum() < 2:
        raise UserError(
            f"{method} tells places from each other, and {dataset.ids[0]} has room for one only; add scans "
            "or "
            "choose mae.",
            code="one-place",
        )


def pooled(features: Tensor) -> Tensor:
    """Global average: (B, C, ...) feature maps to (B, C) in fp32."""
    return features.float().flatten(2).mean(2)


def mlp(inside: int, hidden: int, outside: int, *, norm: bool) -> nn.Sequential:
    """Projector or predictor of pooled features: linear, batch norm where asked for, ReLU, linear."""
    between = [nn.BatchNorm1d(hidden)] if norm else []
    return nn.Sequential(
        nn.Linear(inside, hidden, bias=not norm),
        *between,
        nn.ReLU(inplace=True),
        nn.Linear(hidden, outside),
    )


def need_pairs(batch: int, method: str, reason: str, instead: str) -> None:
    """Raises UserError ("small-batch") where a batch is a single pair, from the start or by short memory."""
    if batch < 2:
        raise UserError(
            f"{method} cannot learn from a batch of one pair of views, because {reason}; ask for a batch of "
            f"2 or more (with a smaller patch where memory is short) or choose {instead}.",
            code="small-batch",
        )


class Head(nn.Sequential):
    """Projector or predictor: 1x1 convolution, batch norm, ReLU, 1x1 convolution, on every cell."""

    def __init__(self, dims: int, inside: int, hidden: int, outside: int) -> None:
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        norm = nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d
        super().__init__(
            convolution(inside, hidden, 1, bias=False),
            norm(hidden),
            nn.ReLU(inplace=True),
            convolution(hidden, outside, 1),
        )


def teacher_of(network: Network, projector: nn.Module) -> nn.ModuleDict:
    """Encoder and projector once more, an exact copy: teacher and student start as one network."""
    teacher = nn.ModuleDict(
        {"encoder": copy.deepcopy(network.encoder), "projector": copy.deepcopy(projector)}
    )
    return teacher.requires_grad_(False)


def network_of(modules: nn.ModuleDict) -> Network:
    """The network that a method trains."""
    return cast(Network, modules["network"])


def teacher_in(modules: nn.ModuleDict) -> nn.ModuleDict:
    """The teacher: "encoder", "projector", and whatever else the method gives it."""
    return cast(nn.ModuleDict, modules["teacher"])


def teacher_forward(teacher: nn.ModuleDict, images: Tensor) -> list[Tensor]:
    """The teacher's feature maps of all levels, finest first."""
    features, levels = images, []
    for block in cast(nn.ModuleList, teacher["encoder"]):
        features = block(features)
        levels.append(features)
    return levels


def move_teacher(modules: nn.ModuleDict, keep: float) -> None:
    """The teacher's parameters a little towards the student's; norms' running statistics are its own."""
    student = [*network_of(modules).encoder.parameters(), *modules["projector"].parameters()]
    teacher = teacher_in(modules)
    update_ema([*teacher["encoder"].parameters(), *teacher["projector"].parameters()], student, keep)


def momentum(start: float, fraction: float) -> float:
    """The teacher's momentum: from `start` to 1 as a cosine (BYOL, arXiv 2006.07733)."""
    return 1 - (1 - start) * (math.cos(math.pi * fraction) + 1) / 2


@torch.no_grad()
def update_ema(teacher: Sequence[Tensor], student: Sequence[Tensor], keep: float) -> None:
    """teacher <- keep * teacher + (1 - keep) * student."""
    torch._foreach_lerp_(list(teacher), list(student), 1 - keep)


def feature_std(features: Tensor) -> Tensor:
    """Mean standard deviation of the unit vectors' channels times sqrt(C): 1 when they fill the sphere."""
    unit = F.normalize(features.detach().float(), dim=1).movedim(1, -1).flatten(0, -2)
    return unit.std(0).mean() * math.sqrt(unit.shape[1])
