"""How structures lie among each other: learned from painted slices, found again in every prediction.

A network that has seen a few slices of two people takes much for a structure that only looks like it. Where
that lies a patch cannot tell, but painted scans do: a brainstem lies above the cord, between the parotids.
Their labels, interpolated between slices, are one coarse map a class. As a whole it is
moved over the prediction of another scan, to where both agree most (cross-correlation); every class counts as
much. What lies farther from its class's place than the class is large becomes less probable.

Nothing is said of a class that keeps no place, such as lesions: one painted scan has to confirm the other,
and a single class has no others to lie among. Between complete slices, and beyond the outermost, whatever
these show may go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medssl.core.labels.shape_interpolation import interpolate
from medssl.nn.data.device_dataset import DeviceDataset, complete_slices
from medssl.nn.models import checkpoint

PREFIX = "location_prior"
"""Of its tensors' names in a checkpoint."""
CELLS = 64
"""Cells of the maps along the longest side of a painted scan."""
MOST_SCANS = 4
"""Painted scans that are looked at: those with the most complete slices."""
CONFIRMED = 0.9
"""Least share of a class that has to lie within its reach of where another painted scan has it."""
FAR_OFF = 0.3
"""Factor of a probability far from the class's place: what the network is sure of can stay."""
MARGIN = 16
"""Cells around the painted scans for which factors are made; beyond, they stay as they are there."""
AT_A_TIME = 1 << 22
"""Voxels that are placed at a time."""


@dataclass(frozen=True)
class LocationPrior:
    """Maps of where classes lie, in work order, all on one device."""

    maps: Tensor
    """(K, Z, Y, X) float, share of the painted scans that have the class in a cell."""
    factors: Tensor
    """(K, Z', Y', X') float, 1 where the class may lie by the painted scans, towards FAR_OFF away from there;
    MARGIN cells larger at each end."""
    reach_mm: Tensor
    """(K,) how far from there: twice the class's radius of gyration; infinite where it keeps no place."""
    cell_mm: Tensor
    """()"""

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return checkpoint.pack(PREFIX, {each.name: getattr(self, each.name) for each in fields(self)})

    def to(self, device: torch.device) -> LocationPrior:
        """The layout on that device."""
        return replace(self, maps=self.maps.to(device), factors=self.factors.to(device))

    def where(self, best: Tensor, level: Tensor, spacing_mm: Sequence[float]) -> Tensor:
        """(K, Z, Y, X) factors on a coarse grid over a scan, 1 near a class's place, FAR_OFF far from it.

        best: (slices, rows, columns) the most probable class, 1..K; level: how probable, of any scale.
        """
        cell = float(self.cell_mm)
        kinds = range(1, len(self.maps) + 1)
        shares = [_coarse(torch.where(best == kind, level, 0), spacing_mm, cell) for kind in kinds]
        move = _best_move(self.maps, torch.stack(shares))
        return _moved(self.factors, [step - MARGIN for step in move], shares[0].shape, on=(0, 1, 2))

    def apply(self, best: Tensor, level: Tensor, spacing_mm: Sequence[float]) -> Tensor:
        """The levels (slices, rows, columns) uint8, less where the class does not belong."""
        factors = self.where(best, level, spacing_mm)
        index = [
            (torch.arange(length, device=best.device) * cells) // length
            for length, cells in zip(best.shape, factors.shape[1:], strict=True)
        ]
        found = torch.empty_like(level)
        thick = max(1, AT_A_TIME // best[0].numel())
        for first in range(0, len(best), thick):
            part = slice(first, first + thick)
            kind = best[part].long() - 1
            factor = factors[kind, index[0][part][:, None, None], index[1][:, None], index[2]]
            found[part] = (level[part] * factor).round().to(level.dtype)
        return found


def read_location_prior(path: Path, device: torch.device) -> LocationPrior | None:
    """That of a checkpoint, on the device; None where it has none.

    Raises UserError where the file is missing or foreign.
    """
    kept = checkpoint.unpack(PREFIX, checkpoint.load(path, under=f"{PREFIX}.")[0])
    return LocationPrior(**kept).to(device) if kept else None


def fit_location_prior(dataset: DeviceDataset, classes: int) -> LocationPrior | None:
    """The layout of painted scans in work order; None where they confirm no two classes.

    Only complete slices tell; a scan needs two of them.
    """
    complete = [len(complete_slices(target)) for target in dataset.targets]
    chosen = [scan for scan in np.argsort(complete)[::-1].tolist() if complete[scan] > 1][:MOST_SCANS]
    if classes < 2 or len(chosen) < 2:
        return None
    longest = max(
        length * step
        for scan in chosen
        for length, step in zip(dataset.targets[scan].shape, dataset.spacing_mm[scan], strict=True)
    )
    cell = max(longest / CELLS, min(min(dataset.spacing_mm[scan]) for scan in chosen))
    scan_maps, rooms = zip(*(_coarse_maps(dataset, scan, classes, cell) for scan in chosen), strict=True)
    known = torch.stack([each.sum((1, 2, 3)) > 0 for each in scan_maps])  # (scans, K)
    radius = torch.stack([_radius(each) for each in scan_maps])
    reach = 2 * cell * radius.sum(0) / known.sum(0).clamp(min=1)
    kept = (known.sum(0) > 1) & _confirmed(scan_maps, rooms, reach, cell)
    if kept.sum() < 2:
        return None
    reach = torch.where(kept, reach, torch.inf)
    moves = [(0, 0, 0), *(_best_move(each, scan_maps[0]) for each in scan_maps[1:])]
    maps = torch.stack(_together(scan_maps, moves)).mean(0) * kept.view(-1, 1, 1, 1)
    room = torch.stack(_together(rooms, moves)).any(0)
    room = _moved(room, (MARGIN,) * 3, [length + 2 * MARGIN for length in room.shape[1:]], on=(0,))
    factors = torch.stack([_near(one, far, cell) for one, far in zip(room, reach.tolist(), strict=True)])
    return LocationPrior(maps, factors, reach, torch.tensor(cell))


def _coarse_maps(dataset: DeviceDataset, scan: int, classes: int, cell: float) -> tuple[Tensor, Tensor]:
    """Of a painted scan, coarse: (K, Z, Y, X) shares of its classes, filled in between complete slices; and
    the cells where they may be, as far as anybody knows: all the way to the next complete slice.
    """
    target, spacing = dataset.targets[scan], dataset.spacing_mm[scan]
    slices = complete_slices(target)
    # Half a cell is fine enough, and what is filled in between slices costs by the pixel.
    rows, columns = (max(1, int(cell / step / 2)) for step in spacing[1:])
    coarse = target[:, rows // 2 :: rows, columns // 2 :: columns].cpu().numpy()
    spacing = (spacing[0], spacing[1] * rows, spacing[2] * columns)
    labels = interpolate(coarse, slices, list(range(1, classes + 1)), spacing[1:])
    scan_maps, room = [], []
    for label in range(1, classes + 1):
        scan_maps.append(_coarse(torch.from_numpy(labels == label), spacing, cell))
        known = coarse == label
        there = np.zeros_like(known)
        for low, high in pairwise([0, *slices, len(coarse) - 1]):
            ends = [each for each in (low, high) if each in slices]
            there[low : high + 1] |= known[ends].any(0)
        room.append(_coarse(torch.from_numpy(there), spacing, cell) > 0)
    return torch.stack(scan_maps), torch.stack(room)


def _coarse(volume: Tensor, spacing_mm: Sequence[float], cell: float) -> Tensor:
    """Means of (Z, Y, X) over cells of about `cell` mm."""
    depth, height, width = (
        max(1, round(length * step / cell)) for length, step in zip(volume.shape, spacing_mm, strict=True)
    )
    return F.adaptive_avg_pool3d(volume.float()[None], (depth, height, width))[0]


def _radius(maps: Tensor) -> Tensor:
    """(K,) radius of gyration in cells: how far from its middle a class lies; 0 where there is none."""
    axes = [torch.arange(length, dtype=maps.dtype) for length in maps.shape[1:]]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)  # (Z, Y, X, 3)
    weights = maps.sum((1, 2, 3)).clamp(min=1e-6)
    middle = torch.einsum("kzyx,zyxa->ka", maps, places) / weights[:, None]
    square = torch.einsum("kzyx,zyxa->k", maps, places.square()) / weights
    return (square - middle.square().sum(1)).clamp(min=0).sqrt()


def _best_move(maps: Tensor, shares: Tensor) -> tuple[int, int, int]:
    """By how many cells to move (K, ...) maps over (K, ...) shares so that they agree most.

    The shares are blurred, which forgives people their differences.
    """
    from scipy.fft import next_fast_len

    parts = maps.sum((1, 2, 3), keepdim=True)
    kernel = torch.where(parts > 0, maps / parts.clamp(min=1e-6), 0)
    blurred = F.avg_pool3d(F.avg_pool3d(shares, 3, 1, 1), 3, 1, 1)
    # In Fourier space, for the maps are about as large as the scan; powers of two and three are fast there.
    size = [
        next_fast_len(one + other - 1, real=True)
        for one, other in zip(maps.shape[1:], shares.shape[1:], strict=True)
    ]
    product = torch.fft.rfftn(blurred, size) * torch.fft.rfftn(kernel, size).conj()
    agreement = torch.fft.irfftn(product.sum(0), size)
    place = np.unravel_index(int(agreement.argmax()), size)
    move = [
        int(at) if at < length else int(at) - whole
        for at, length, whole in zip(place, shares.shape[1:], size, strict=True)
    ]
    return move[0], move[1], move[2]


def _moved(maps: Tensor, move: Sequence[int], shape: Sequence[int], on: Sequence[int] = ()) -> Tensor:
    """(..., Z, Y, X) maps moved by whole cells into a grid of that shape, with nothing around them.

    on: axes at whose ends they go on as they end.
    """
    index = [torch.arange(size, device=maps.device) - step for size, step in zip(shape, move, strict=True)]
    kept = [at.clamp(0, length - 1) for at, length in zip(index, maps.shape[-3:], strict=True)]
    found = maps[..., kept[0][:, None, None], kept[1][:, None], kept[2]]
    for axis in {0, 1, 2} - {*on}:
        inside = index[axis] == kept[axis]
        found = found * inside.view(-1, *[1] * (2 - axis))
    return found


def _near(there: Tensor, reach: float, cell: float) -> Tensor:
    """1 within `reach` mm of where something is, then falling to FAR_OFF; 1 everywhere where nothing is."""
    from scipy.ndimage import distance_transform_edt

    if not np.isfinite(reach) or not there.any():
        return torch.ones(there.shape)
    away = torch.from_numpy(distance_transform_edt(~there.numpy(), sampling=cell)).float()
    return FAR_OFF + (1 - FAR_OFF) * torch.exp(-(away - reach).clamp(min=0) / (reach / 4))


def _confirmed(scan_maps: Sequence[Tensor], rooms: Sequence[Tensor], reach: Tensor, cell: float) -> Tensor:
    """(K,) whether each class lies in all painted scans where each other one has room for it."""
    kept = torch.ones(len(reach), dtype=torch.bool)
    for one, other in permutations(range(len(scan_maps)), 2):
        move, there = _best_move(scan_maps[one], scan_maps[other]), scan_maps[other]
        for label, far in enumerate(reach.tolist()):
            room = _moved(rooms[one][label], move, there.shape[1:], on=(0,))
            if scan_maps[one][label].any() and there[label].any():
                near = _near(room, far, cell) == 1
                kept[label] &= bool((there[label] * near).sum() >= CONFIRMED * there[label].sum())
    return kept


def _together(each: Sequence[Tensor], moves: Sequence[Sequence[int]]) -> list[Tensor]:
    """Maps of one grid that holds all of them, moved by `moves`."""
    low = [min(move[axis] for move in moves) for axis in range(3)]
    ends = [
        [move[axis] + one.shape[1 + axis] for move, one in zip(moves, each, strict=True)] for axis in range(3)
    ]
    shape = [max(end) - first for end, first in zip(ends, low, strict=True)]
    steps = ([step - first for step, first in zip(move, low, strict=True)] for move in moves)
    return [_moved(one, step, shape) for one, step in zip(each, steps, strict=True)]
