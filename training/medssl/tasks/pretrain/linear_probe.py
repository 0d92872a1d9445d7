"""What features are worth for what was painted: a linear classifier on them, tried on slices left out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from medssl.core.errors import UserError
from medssl.core.jobs import Plan
from medssl.core.project.project import IGNORE, Project
from medssl.nn.data.crops import cut, cut_targets, shown
from medssl.nn.data.device_dataset import load_device_dataset
from medssl.nn.models.unet import Network
from medssl.tasks.inference.features import unit_levels
from medssl.tasks.segment.annotated_crops import AnnotatedVoxels, sample_annotated

PATCHES, VOXELS = 24, 100
"""Patches around painted voxels, and painted voxels looked at in each, its classes drawn evenly."""
MOST_SCANS = 8
"""Scans that painted voxels are taken from."""
FOLDS = 5
RIDGE = 1.0
"""Of the features' mean square. On ten slices a weaker one fits these and finds less on others: 1e-3 found
0.37 with random and 0.55 with PGL weights, 1 found 0.54 and 0.65."""


@dataclass(frozen=True)
class PaintedVoxels:
    """Voxels of painted slices, drawn once.

    images: (P, S, H, W) or (P, 1, D, H, W) patches; index: (P, n, 2 or 3) voxels of the patch; label and
    place: (P * n,) class and slice, a number of its own for each slice of each scan.
    """

    images: Tensor
    index: Tensor
    label: Tensor
    place: Tensor


def draw_painted(
    project: Project, plan: Plan, device: torch.device, generator: Generator
) -> PaintedVoxels | None:
    """Painted voxels of some scans; None where nothing is painted that a classifier could tell apart."""
    scans = project.annotated()
    scans = scans[:: max(1, -(-len(scans) // MOST_SCANS))]
    plan = replace(plan, batch=PATCHES)
    try:
        dataset = load_device_dataset(project, scans, plan, device, [each.id for each in project.classes])
        voxels = AnnotatedVoxels.of(dataset)
    except UserError:
        return None  # pre-training needs no annotation; fine-tuning will say what is wrong with it
    views = sample_annotated(
        dataset, plan, voxels, generator, zoom=(1, 1), rotation=0, reach=0.5, overshoot=0
    )
    targets = cut_targets(dataset, views, plan).cpu()
    index, label = _draw_voxels(targets, generator)
    middle = (plan.patch_vox[0] - 1) / 2
    across = index[..., 0] - middle if plan.dims == 3 else torch.zeros(label.shape)
    slices = (views.centre[:, :1] + views.step[:, :1] * across).round().long()
    longest = max(len(image) for image in dataset.images)
    return PaintedVoxels(
        shown(cut(dataset, views, plan)),
        index.to(device),
        label.flatten(),
        (views.scan[:, None] * longest + slices).flatten(),
    )


def _draw_voxels(targets: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """(P, VOXELS, n) positions and (P, VOXELS) classes of painted voxels, classes of a patch drawn evenly."""
    index, label = [], []
    for target in targets:
        flat = target.flatten()
        count = torch.bincount(flat, minlength=IGNORE + 1).float()
        share = torch.where(flat == IGNORE, 0.0, 1 / count[flat])
        drawn = torch.multinomial(share, VOXELS, replacement=True, generator=generator)
        index.append(torch.stack(torch.unravel_index(drawn, target.shape), dim=-1))
        label.append(flat[drawn])
    return torch.stack(index), torch.stack(label)


@torch.no_grad()
def voxel_features(network: Network, painted: PaintedVoxels, batch: int) -> Tensor:
    """(P * n, F) features of painted voxels: all encoder levels, each of unit length, side by side."""
    found = []
    for images, index in zip(painted.images.split(batch), painted.index.split(batch), strict=True):
        padded, _ = network.pad(images)
        lengths = torch.tensor(padded.shape[2:], device=index.device)
        grid = (2 * (index + 0.5) / lengths - 1).flip(-1)
        grid = grid.reshape(len(grid), *[1] * (grid.shape[-1] - 1), *grid.shape[1:])
        found.append(unit_levels(network.encode(padded), grid).flatten(2).movedim(1, 2).flatten(0, 1))
    return torch.cat(found)


def probe(vectors: Tensor, label: Tensor, place: Tensor) -> Tensor | None:
    """Balanced accuracy, 0 .. 1, of a linear classifier on features (N, F), as what each slice adds to it.

    Ridge regression on one number a class `label` (N,), classes weighted evenly, in closed form. Slices
    (`place`, (N,)) are left out in five groups in turn. Classes painted in one group only cannot be asked for
    and are dropped; None where fewer than two classes are left. Returns (slices,); the sum is the accuracy.
    """
    slices, number = place.unique(return_inverse=True)
    fold = number % FOLDS
    asked = [each for each in label.unique().tolist() if len(fold[label == each].unique()) > 1]
    if len(asked) < 2:
        return None
    known = torch.isin(label, torch.tensor(asked))
    label, fold = torch.searchsorted(torch.tensor(asked), label[known]), fold[known]
    vectors = vectors.cpu()[known].double()
    vectors = torch.cat([vectors - vectors.mean(0), torch.ones(len(vectors), 1)], dim=1)
    wanted = F.one_hot(label).double()
    weight = (1 / wanted.sum(0) / len(asked))[label]
    weighted = vectors * weight[:, None]
    parts = [fold == each for each in range(FOLDS)]
    squares = [weighted[part].T @ vectors[part] for part in parts]
    products = [weighted[part].T @ wanted[part] for part in parts]
    square, product = torch.stack(squares).sum(0), torch.stack(products).sum(0)
    ridge = RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
    right = torch.zeros(len(label), dtype=torch.bool)
    for part, own_square, own_product in zip(parts, squares, products, strict=True):
        weights = torch.linalg.solve(square - own_square + ridge, product - own_product)
        right[part] = (vectors[part] @ weights).argmax(1) == label[part]
    return torch.zeros(len(slices), dtype=weight.dtype).index_add_(0, number[known], weight * right)


def surely(one: Tensor, two: Tensor) -> int:
    """1 where `one` (slices,) is worth more than `two`, -1 where less, 0 where that may be chance.

    It is not where the difference exceeds twice its standard error, by how slices disagree about it.
    """
    apart = one - two
    error = math.sqrt(len(apart)) * float(apart.std())
    return 0 if abs(float(apart.sum())) <= 2 * error else 1 if apart.sum() > 0 else -1
