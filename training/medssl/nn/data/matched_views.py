"""Pairs of views at the same place of two scans, for methods that compare people with each other (Alice).

Places are drawn on the body of one scan and looked for in the other until one is found with a good score;
boxes equally large in mm go around both. Where none is found, the pair are two boxes of the first scan.

Alice's code cuts where the place lies, however much of the box is beyond the scan, and fills with zeros. Here
both boxes are moved by the same mm until the first lies inside its scan, where it fits: half of a patch that
is nearly as large as the scan would be made up. Beyond a border its last voxel repeats, as in all views.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor

from medssl.core.jobs import Plan
from medssl.nn.data.crops import CropBatch, crop_step, scan_shapes
from medssl.nn.models.anatomical_embedding import EmbeddingBank, find


def matched_views(
    embedding_bank: EmbeddingBank,
    plan: Plan,
    size: tuple[int, int, int],
    candidates: int,
    threshold: float,
    generator: Generator,
) -> tuple[CropBatch, CropBatch, Tensor]:
    """The plan's batch of pairs, and which of them (B,) lie in two scans."""
    dataset, batch = embedding_bank.dataset, plan.batch
    scan = torch.randint(len(dataset), (batch,), generator=generator)
    other = (scan + torch.randint(1, len(dataset), (batch,), generator=generator)) % len(dataset)
    point, match, accepted = _match(embedding_bank, scan, other, candidates, threshold, generator)
    other = torch.where(accepted, other, scan)
    step, other_step = crop_step(dataset, plan, scan), crop_step(dataset, plan, other)
    # Half a box apart at most, and in 2.5D on one slice: they shall overlap.
    offset = step * torch.tensor(size) / 2 * (2 * torch.rand(batch, 3, generator=generator) - 1)
    offset[:, : 3 - plan.dims] = 0
    nearby = (point + offset).clamp(min=0).minimum(scan_shapes(dataset, scan) - 1)
    match = torch.where(accepted[:, None], match, nearby)
    first, second = around(scan, point, size, step), around(other, match, size, other_step)
    moved = _moves_inside(first, scan_shapes(dataset, scan))
    moved[:, : 3 - plan.dims] = 0
    first = replace(first, centre=first.centre + moved)
    return first, replace(second, centre=second.centre + moved / step * other_step), accepted


def _match(
    embedding_bank: EmbeddingBank,
    scan: Tensor,
    other: Tensor,
    candidates: int,
    threshold: float,
    generator: Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of places drawn in each scan the first whose score exceeds the threshold: there, in the other scan
    (both (B, 3) voxels), and whether there was one (B,)."""
    within = torch.rand(len(scan), 3, generator=generator) - 0.5
    pairs = [
        (embedding_bank.embedded(int(one)), embedding_bank.embedded(int(two)))
        for one, two in zip(scan, other, strict=True)
    ]
    drawn, found = [], []
    for one, two in pairs:
        chosen = one.body[torch.randint(len(one.body), (candidates,), generator=generator)]
        drawn.append(chosen)
        found.append(find(one.vectors[chosen.to(one.vectors.device)], two.vectors))
    # Asked once for the whole batch: an accelerator's work must end before boxes can be placed.
    number = torch.stack([each for each, _ in found]).cpu()
    good = torch.stack([score for _, score in found]).cpu() > threshold
    first = good.int().argmax(1).tolist()
    rows = list(zip(pairs, first, within, strict=True))
    point = [one.voxel(drawn[row][at], part) for row, ((one, _), at, part) in enumerate(rows)]
    match = [two.voxel(number[row, at], part) for row, ((_, two), at, part) in enumerate(rows)]
    return torch.stack(point), torch.stack(match), good.any(1)


def around(scan: Tensor, point: Tensor, size: tuple[int, int, int], step: Tensor) -> CropBatch:
    """Boxes whose middle voxel (number size // 2) lies at points (B, 3) of the scans."""
    off_middle = torch.tensor([length // 2 - (length - 1) / 2 for length in size])
    flip = torch.zeros(len(scan), 3, dtype=torch.bool)
    return CropBatch(size, scan, point - step * off_middle, step, flip, torch.zeros(len(scan)))


def _moves_inside(views: CropBatch, shapes: Tensor) -> Tensor:
    """(B, 3) scan voxels by which boxes must move to lie inside their scans; 0 where they do not fit."""
    low, high = views.extent()
    move = (-0.5 - low).clamp(min=0) - (high - shapes + 0.5).clamp(min=0)
    return torch.where(high - low <= shapes, move, 0.0)
