"""Pairs of crops at corresponding positions of two scans, for methods that compare patients (Alice).

Positions are drawn on the body of one scan and matched in the other by the anatomical embedding; the first
match above a threshold gives the centres of two crops of the same size in mm. Without such a match, both
crops come from the first scan.

Alice's code crops around the position however much lies beyond the scan, and pads with zeros. Here both crops
are moved by the same distance in mm until the first lies inside its scan, if it fits: half of a crop nearly
as large as the scan would be padding. Beyond the border the last voxel repeats, as in all crops.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor

from medssl.core.jobs import Plan
from medssl.nn.data.crops import CropBatch, crop_step, scan_shapes
from medssl.nn.models.anatomical_embedding import find
from medssl.nn.models.embedding_bank import EmbeddingBank


def matched_views(
    embedding_bank: EmbeddingBank,
    plan: Plan,
    size: tuple[int, int, int],
    candidates: int,
    threshold: float,
    generator: Generator,
    fraction: float = 0.0,
) -> tuple[CropBatch, CropBatch, Tensor]:
    """Draw pairs of crops at corresponding positions.

    Args:
        embedding_bank: Scans (at least two) and their embeddings.
        plan: Gives the batch size B and the working spacing.
        size: Crop size in voxels (slices, rows, columns).
        candidates: Positions that are matched per pair, of which the first good one is taken.
        threshold: Least score of a match, a cosine.
        generator: CPU generator of all draws.
        fraction: Fraction of all pairs drawn so far; selects the scans in memory (`EmbeddingBank.window`).

    Returns:
        First and second crops, and which pairs were matched across scans (B,) bool.
    """
    dataset, batch, window = embedding_bank.dataset, plan.batch, embedding_bank.window(fraction)
    one = torch.randint(len(window), (batch,), generator=generator)
    two = (one + torch.randint(1, len(window), (batch,), generator=generator)) % len(window)
    scan, other = window[one], window[two]
    point, match, accepted = _match(embedding_bank, scan, other, candidates, threshold, generator)
    other = torch.where(accepted, other, scan)
    step, other_step = crop_step(dataset, plan, scan), crop_step(dataset, plan, other)
    # Crops of one scan must overlap: at most half a crop apart, and in 2.5D on one slice.
    offset = step * torch.tensor(size) / 2 * (2 * torch.rand(batch, 3, generator=generator) - 1)
    offset[:, : 3 - plan.dims] = 0
    nearby = (point + offset).clamp(min=0).minimum(scan_shapes(dataset, scan) - 1)
    match = torch.where(accepted[:, None], match, nearby)
    first, second = around(scan, point, size, step), around(other, match, size, other_step)
    shift = _shift_inside(first, scan_shapes(dataset, scan))
    shift[:, : 3 - plan.dims] = 0
    first = replace(first, centre=first.centre + shift)
    return first, replace(second, centre=second.centre + shift / step * other_step), accepted


def _match(
    embedding_bank: EmbeddingBank,
    scan: Tensor,
    other: Tensor,
    candidates: int,
    threshold: float,
    generator: Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of positions drawn in each scan, the first whose score exceeds the threshold.

    Returns:
        Position in the scan and in the other scan, both (B, 3) voxels, and whether there is one (B,) bool.
    """
    offset = torch.rand(len(scan), 3, generator=generator) - 0.5
    pairs = [
        (embedding_bank.embedded(int(query)), embedding_bank.embedded(int(key)))
        for query, key in zip(scan, other, strict=True)
    ]
    drawn, matches = [], []
    for query, key in pairs:
        cells = query.body[torch.randint(len(query.body), (candidates,), generator=generator)]
        drawn.append(cells)
        matches.append(find(query.vectors[cells.to(query.vectors.device)], key.vectors))
    # One transfer for the whole batch: each waits for all pending work of an accelerator.
    matched = torch.stack([index for index, _ in matches]).cpu()
    good = torch.stack([score for _, score in matches]).cpu() > threshold
    first = good.int().argmax(1).tolist()
    rows = list(enumerate(zip(pairs, first, offset, strict=True)))
    point = [query.voxel(drawn[row][nth], within) for row, ((query, _), nth, within) in rows]
    match = [key.voxel(matched[row, nth], within) for row, ((_, key), nth, within) in rows]
    return torch.stack(point), torch.stack(match), good.any(1)


def around(scan: Tensor, point: Tensor, size: tuple[int, int, int], step: Tensor) -> CropBatch:
    """Crops whose middle voxel (index size // 2) lies at given positions.

    Args:
        scan: Scan indices (B,) int64.
        point: Positions in scan voxels (B, 3).
        size: Crop size in voxels (slices, rows, columns).
        step: Scan voxels per crop voxel (B, 3).
    """
    off_middle = torch.tensor([length // 2 - (length - 1) / 2 for length in size])
    flip = torch.zeros(len(scan), 3, dtype=torch.bool)
    return CropBatch(size, scan, point - step * off_middle, step, flip, torch.zeros(len(scan)))


def _shift_inside(views: CropBatch, shapes: Tensor) -> Tensor:
    """Scan voxels (B, 3) by which crops must move to lie inside their scans; 0 where they do not fit."""
    low, high = views.extent()
    shift = (-0.5 - low).clamp(min=0) - (high - shapes + 0.5).clamp(min=0)
    return torch.where(high - low <= shapes, shift, 0.0)
