"""Linear probe: cross-validated accuracy of a linear classifier on the features of annotated voxels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from medssl.core.errors import UserError
from medssl.core.jobs import Plan
from medssl.core.project.channels import having
from medssl.core.project.project import IGNORE, Project
from medssl.nn.data.crops import cut, cut_targets, shown
from medssl.nn.data.device_dataset import load_device_dataset
from medssl.nn.models.unet import Network
from medssl.tasks.inference.feature_grid import unit_levels
from medssl.tasks.segment.annotated_crops import AnnotatedVoxels, sample_annotated

PATCHES, VOXELS = 24, 100
"""Number of crops around annotated voxels, and of voxels per crop, with equal probability per class."""
MAX_SCANS = 8
"""Maximum number of annotated scans to use."""
FOLDS = 5
"""Number of groups of slices in the cross-validation."""
RIDGE = 1.0
"""Ridge penalty relative to the mean square of the features. With ten slices a weaker one overfits: the
accuracy with random and with PGL weights was 0.37 and 0.55 for 1e-3, and 0.54 and 0.65 for 1."""


@dataclass(frozen=True)
class AnnotatedSample:
    """Annotated voxels in P crops with n voxels each, drawn once."""

    images: Tensor
    """Crops, (P, S, H, W) or (P, 1, D, H, W)."""
    index: Tensor
    """Positions in the crops, (P, n, 2 or 3) long."""
    label: Tensor
    """Class numbers, (P * n,)."""
    slice_id: Tensor
    """Number of the slice, unique across scans, (P * n,)."""


def draw_annotated(
    project: Project, plan: Plan, device: torch.device, generator: Generator
) -> AnnotatedSample | None:
    """Draw annotated voxels of up to MAX_SCANS scans.

    Args:
        project: The project with the annotations.
        plan: Plan of the network.
        device: Where to put the crops.
        generator: Source of all random draws.

    Returns:
        The voxels; None if fewer than two classes (background included) are annotated.
    """
    scans = having((project.scans[scan] for scan in project.annotated()), plan.channel_names)
    scans = scans[:: max(1, -(-len(scans) // MAX_SCANS))]
    plan = replace(plan, batch=PATCHES)
    try:
        dataset = load_device_dataset(project, scans, plan, device, [label.id for label in project.classes])
        voxels = AnnotatedVoxels.of(dataset)
    except UserError:
        return None  # pre-training needs no annotation; fine-tuning reports what is wrong with it
    crops = sample_annotated(
        dataset, plan, voxels, generator, zoom=(1, 1), rotation=0, reach=0.5, overshoot=0
    )
    targets = cut_targets(dataset, crops, plan).cpu()
    index, label = _draw_voxels(targets, generator)
    middle = (plan.patch_vox[0] - 1) / 2
    offset = index[..., 0] - middle if plan.dims == 3 else torch.zeros(label.shape)
    slices = (crops.centre[:, :1] + crops.step[:, :1] * offset).round().long()
    longest = max(len(image) for image in dataset.images)
    return AnnotatedSample(
        shown(cut(dataset, crops, plan)),
        index.to(device),
        label.flatten(),
        (crops.scan[:, None] * longest + slices).flatten(),
    )


def _draw_voxels(targets: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Positions (P, VOXELS, axes) and classes (P, VOXELS) of annotated voxels, classes equally likely."""
    index, label = [], []
    for target in targets:
        flat = target.flatten()
        count = torch.bincount(flat, minlength=IGNORE + 1).float()
        weight = torch.where(flat == IGNORE, 0.0, 1 / count[flat])
        drawn = torch.multinomial(weight, VOXELS, replacement=True, generator=generator)
        index.append(torch.stack(torch.unravel_index(drawn, target.shape), dim=-1))
        label.append(flat[drawn])
    return torch.stack(index), torch.stack(label)


@torch.no_grad()
def voxel_features(network: Network, sample: AnnotatedSample, batch: int) -> Tensor:
    """Features of annotated voxels: all encoder levels, each normalized to unit length, concatenated.

    Args:
        network: The network.
        sample: The voxels.
        batch: Number of crops per forward pass.

    Returns:
        Feature vectors, (P * n, F) float32.
    """
    features = []
    for images, index in zip(sample.images.split(batch), sample.index.split(batch), strict=True):
        padded, _ = network.pad(images)
        lengths = torch.tensor(padded.shape[2:], device=index.device)
        grid = (2 * (index + 0.5) / lengths - 1).flip(-1)
        grid = grid.reshape(len(grid), *[1] * (grid.shape[-1] - 1), *grid.shape[1:])
        features.append(unit_levels(network.encode(padded), grid).flatten(2).movedim(1, 2).flatten(0, 1))
    return torch.cat(features)


def probe(vectors: Tensor, label: Tensor, slice_id: Tensor) -> Tensor | None:
    """Cross-validated balanced accuracy of a linear classifier.

    Ridge regression on one-hot classes with equal class weights, in closed form. Slices are left out in five
    groups in turn. Classes annotated in a single group cannot be validated and are excluded.

    Args:
        vectors: Feature vectors, (N, F) float.
        label: Class numbers, (N,) long.
        slice_id: Number of the slice of each vector, (N,) long.

    Returns:
        Contribution of each slice to the accuracy, float64 (slices,); the sum is the accuracy, 0 .. 1. None
        if fewer than two classes remain.
    """
    slices, number = slice_id.unique(return_inverse=True)
    fold = number % FOLDS
    classes = [value for value in label.unique().tolist() if len(fold[label == value].unique()) > 1]
    if len(classes) < 2:
        return None
    used = torch.isin(label, torch.tensor(classes))
    label, fold = torch.searchsorted(torch.tensor(classes), label[used]), fold[used]
    vectors = vectors.cpu()[used].double()
    vectors = torch.cat([vectors - vectors.mean(0), torch.ones(len(vectors), 1)], dim=1)
    one_hot = F.one_hot(label).double()
    weight = (1 / one_hot.sum(0) / len(classes))[label]
    weighted = vectors * weight[:, None]
    masks = [fold == index for index in range(FOLDS)]
    squares = [weighted[mask].T @ vectors[mask] for mask in masks]
    products = [weighted[mask].T @ one_hot[mask] for mask in masks]
    square, product = torch.stack(squares).sum(0), torch.stack(products).sum(0)
    ridge = RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
    correct = torch.zeros(len(label), dtype=torch.bool)
    for mask, fold_square, fold_product in zip(masks, squares, products, strict=True):
        weights = torch.linalg.solve(square - fold_square + ridge, product - fold_product)
        correct[mask] = (vectors[mask] @ weights).argmax(1) == label[mask]
    return torch.zeros(len(slices), dtype=weight.dtype).index_add_(0, number[used], weight * correct)


def compare_slices(first: Tensor, second: Tensor) -> int:
    """Compare two results of `probe` on the same slices.

    A difference is significant if it exceeds twice its standard error, estimated from its variation between
    slices.

    Args:
        first: Contributions of the slices, (slices,) float.
        second: Likewise, (slices,) float.

    Returns:
        1 if `first` is significantly better, -1 if it is significantly worse, else 0.
    """
    difference = first - second
    error = math.sqrt(len(difference)) * float(difference.std())
    return 0 if abs(float(difference.sum())) <= 2 * error else 1 if difference.sum() > 0 else -1
