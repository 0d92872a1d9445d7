"""A dense anatomical embedding: where in another scan is the same place of the body?

Self-supervised anatomical embedding ("SAM", Yan et al., arXiv 2012.02383): one small 3D network gives every
cell of a scan a fine vector (stride 2) and a coarse one (stride 8), all of unit length. A place is found in
another scan where the mean of both cosines is largest. methods/embedding_training.py trains it.

Where we depart from the paper, and why:
- All scans are brought onto a common isotropic grid of a few dozen cells a side, whatever the plan's dims:
  one matcher for 2.5D and 3D, and small enough for a CPU. The paper works at 2 mm.
- A few convolutions with a norm over each cell's own channels instead of a 3D ResNet18 with batch norm: a
  cell's vector must not depend on how much of the scan was cut out around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.devices import full_precision
from medssl.nn.models import checkpoint

FINE, COARSE = 2, 8
"""Cells of the common grid that a cell of either level spans."""
WIDTHS = (32, 48, 64)
"""Channels at strides 2, 4 and 8."""
BODY = 0.2
"""Body is what is brighter than this share of a scan's range of grey values."""


@dataclass(frozen=True)
class EmbeddingSettings:
    """How the embedding is trained: the paper's numbers where a common grid has them."""

    cells: int = 64
    """Cells of the common grid along a typical scan's longest side; at most one a voxel."""
    dimension: int = 128
    """Numbers a cell has at either level."""
    crop: int = 32
    """Longest side of a training crop in cells."""
    crop_pairs: int = 2
    anchors: int = 128
    """Places that are compared in a pair of crops."""
    negatives: int = 500
    """Hardest negatives that an anchor keeps."""
    min_negative_distance_mm: float = 20.0
    """Nearer places are neither the same nor another one."""
    matching_temperature: float = 0.5


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each cell, (B, C, ...)."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.movedim(1, -1)).movedim(-1, 1)


class Block(nn.Module):
    """x + convolution(ReLU(norm(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(width)
        self.convolution = nn.Conv3d(width, width, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.convolution(F.relu(self.norm(features)))


class AnatomicalEmbedding(nn.Module):
    """The embedding's network, with the grid that it was made for."""

    cell_mm: Tensor
    """Side of a cell of the common grid."""
    ready: Tensor
    """Whether it is trained, and stays as it is from now on."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        fine, middle, coarse = WIDTHS
        self.register_buffer("cell_mm", torch.ones(()))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))
        # Kernels lie symmetrically about the cells they fill: a cell means its own middle.
        self.stem = nn.Conv3d(1, fine, 4, stride=2, padding=1)
        self.down = nn.ModuleList(
            [nn.Conv3d(fine, middle, 2, stride=2), nn.Conv3d(middle, coarse, 2, stride=2)]
        )
        self.blocks = nn.ModuleList([nn.Sequential(Block(width), Block(width)) for width in WIDTHS])
        self.up = nn.ModuleList([nn.Conv3d(middle, fine, 1), nn.Conv3d(coarse, middle, 1)])
        self.fine = nn.Sequential(Block(fine), ChannelNorm(fine), nn.Conv3d(fine, dimension, 1))
        self.coarse = nn.Sequential(ChannelNorm(coarse), nn.Conv3d(coarse, dimension, 1))

    def forward(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Fine and coarse unit vectors (B, C, ...) of volumes (B, 1, D, H, W) in whole coarse cells."""
        fine = self.blocks[0](self.stem(volume))
        middle = self.blocks[1](self.down[0](fine))
        coarse = self.blocks[2](self.down[1](middle))
        middle = middle + _double(self.up[1](coarse))
        fine = fine + _double(self.up[0](middle))
        return F.normalize(self.fine(fine).float(), dim=1), F.normalize(self.coarse(coarse).float(), dim=1)

    @torch.no_grad()
    @full_precision
    def embed(self, volume: Tensor) -> Tensor:
        """(2C, d, h, w) unit vectors of the fine cells of a volume (D, H, W) on the common grid.

        Fine and coarse vector lie side by side: the product of two such vectors is the mean of both cosines.
        """
        grow = [-length % COARSE for length in volume.shape]
        padded = F.pad(volume[None, None], (0, grow[2], 0, grow[1], 0, grow[0]), mode="replicate")
        fine, coarse = self(padded)
        coarse = F.interpolate(coarse, fine.shape[2:], mode="trilinear")
        cells = tuple(slice(0, -(-length // FINE)) for length in volume.shape)
        return side_by_side(torch.cat([fine, coarse], dim=1))[0][(slice(None), *cells)]


def _double(features: Tensor) -> Tensor:
    return F.interpolate(features, scale_factor=2, mode="trilinear")


def side_by_side(both: Tensor) -> Tensor:
    """Fine and coarse vectors (B, 2C, ...), each made as long as sqrt(1/2): together of unit length."""
    fine, coarse = both.chunk(2, dim=1)
    return torch.cat([F.normalize(fine, dim=1), F.normalize(coarse, dim=1)], dim=1) * 0.5**0.5


def load_matcher(path: Path) -> AnatomicalEmbedding | None:
    """The matcher of a checkpoint, if there is one.

    Raises UserError where the file is missing or foreign.
    """
    state = checkpoint.unpack("modules.matcher", checkpoint.load(path)[0])
    if not state:
        return None
    matcher = AnatomicalEmbedding(len(state["coarse.1.weight"]))
    matcher.load_state_dict(state)
    return matcher.eval()


@full_precision
def on_grid(image: Tensor, spacing_mm: Sequence[float], cell_mm: float) -> Tensor:
    """A scan (slices, rows, columns) on the common grid, float32: the same box, two cells a side or more."""
    wanted = [
        max(FINE, round(length * each / cell_mm))
        for length, each in zip(image.shape, spacing_mm, strict=True)
    ]
    # Voxels are averaged where cells are larger, and interpolated between where they are smaller.
    depth, height, width = (min(one, two) for one, two in zip(wanted, image.shape, strict=True))
    averaged = F.adaptive_avg_pool3d(image[None, None].float(), (depth, height, width))
    return F.interpolate(averaged, wanted, mode="trilinear")[0, 0]


@full_precision
def find(query: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """For each query (n, F) the most similar of the keys (N, F): its index (n,) and score (n,) in -1..1."""
    score, index = (query.float() @ keys.float().T).max(1)
    return index, score.clamp(-1, 1)


@dataclass(frozen=True)
class Embedded:
    """The vectors of one scan's fine cells (N, 2C) float16, and where these lie."""

    vectors: Tensor
    cells: tuple[int, ...]
    volume_shape: tuple[int, ...]
    scan_shape: tuple[int, ...]
    body: Tensor
    """Numbers of the cells that show body, or of all where nothing stands out; on the CPU."""

    def voxel(self, number: Tensor, within: Tensor) -> Tensor:
        """(..., 3) voxels of the scan at cells, `within` (..., 3) fine cells away from their centres."""
        cell = torch.stack(torch.unravel_index(number, self.cells), -1)
        scan, volume = torch.tensor(self.scan_shape), torch.tensor(self.volume_shape)
        voxel = (cell + 0.5 + within) * FINE * scan / volume - 0.5
        return voxel.clamp(min=0).minimum(scan - 1.0)  # the last cell may be half outside

    def number(self, voxel: Tensor) -> Tensor:
        """(...,) numbers of the cells that hold scan voxels (..., 3)."""
        volume, scan = torch.tensor(self.volume_shape), torch.tensor(self.scan_shape)
        cell = ((voxel + 0.5) * volume / scan / FINE).floor().long()
        cell = cell.clamp(min=0).minimum(torch.tensor(self.cells) - 1)
        _, rows, columns = self.cells
        return (cell[..., 0] * rows + cell[..., 1]) * columns + cell[..., 2]


class EmbeddingBank:
    """The scans of a pool on the common grid, and embedded there, each when it is first asked for."""

    def __init__(
        self, dataset: DeviceDataset, matcher: AnatomicalEmbedding, settings: EmbeddingSettings
    ) -> None:
        self.dataset, self.matcher, self.settings = dataset, matcher, settings
        size = torch.tensor([tuple(image.shape) for image in dataset.images]) * torch.tensor(
            dataset.spacing_mm
        )
        longest = float(size.amax(1).median())
        finest = float(torch.tensor(dataset.spacing_mm).amin(1).median())
        self.cell_mm = max(longest / settings.cells, finest)
        self.far_cells = min(settings.min_negative_distance_mm, longest / 5) / self.cell_mm
        typical = (size.median(0).values / self.cell_mm).tolist()
        whole = [max(2 * COARSE, int(cells) // COARSE * COARSE) for cells in typical]
        self.side = tuple(min(settings.crop, cells) for cells in whole)
        self._volumes: dict[int, tuple[Tensor, Tensor]] = {}
        self._embedded: dict[int, Embedded] = {}

    def volume(self, scan: int) -> tuple[Tensor, Tensor]:
        """A scan on the common grid, and the grey value above which it shows body."""
        if scan not in self._volumes:
            volume = on_grid(
                self.dataset.images[scan].to(self.dataset.device), self.dataset.spacing_mm[scan], self.cell_mm
            )
            ordered = volume.flatten().sort().values
            low, high = ordered[len(ordered) // 100], ordered[-1 - len(ordered) // 100]
            self._volumes[scan] = volume, low + BODY * (high - low)
        return self._volumes[scan]

    def embedded(self, scan: int) -> Embedded:
        """The vectors of a scan; ask only when the matcher is ready."""
        if scan not in self._embedded:
            volume, floor = self.volume(scan)
            vectors = self.matcher.embed(volume)
            grey = F.avg_pool3d(volume[None, None], FINE, ceil_mode=True).flatten()
            body = (grey > floor).nonzero()[:, 0].cpu()
            self._embedded[scan] = Embedded(
                vectors.flatten(1).T.half().contiguous(),
                tuple(vectors.shape[1:]),
                tuple(volume.shape),
                tuple(self.dataset.images[scan].shape),
                body if len(body) else torch.arange(len(grey)),
            )
        return self._embedded[scan]
