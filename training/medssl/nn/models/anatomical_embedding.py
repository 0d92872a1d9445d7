"""Dense anatomical embedding, which matches anatomical positions between scans.

Self-supervised anatomical embedding ("SAM", Yan et al., arXiv 2012.02383): a small 3D network gives every
cell of a scan a fine (stride 2) and a coarse (stride 8) unit vector. The match of a position in another scan
is where the mean of both cosines is largest. methods/embedding_training.py trains the network.

Where we depart from the paper, and why:
- All scans are resampled to a common isotropic grid of a few dozen cells a side, whatever the plan's
  dimensions: one matcher for 2.5D and 3D, and small enough for a CPU. The paper works at 2 mm.
- The coarse stride is 8 along all axes; the paper's, 4 across slices and 16 in plane, suits thick slices.
- A few convolutions with layer norm over channels instead of a 3D ResNet18 with batch norm: the vector of a
  cell must not depend on the extent of the crop around it.
- All channels of a scan are its input; the paper has CT alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl.core.settings import Count, Positive
from medssl.nn.devices import full_precision
from medssl.nn.models import checkpoint
from medssl.nn.models.convolution_3d import Convolution3d

FINE, COARSE = 2, 8
"""Strides of the fine and the coarse level, in cells of the common grid."""
WIDTHS = (32, 48, 64)
"""Channels at strides 2, 4 and 8."""


@dataclass(frozen=True)
class EmbeddingSettings:
    """Training of the embedding, with the paper's values where they apply to a common grid."""

    cells: Count = 64
    """Cells of the common grid along a typical scan's longest side; at most one per voxel."""
    dimension: Count = 128
    """Length of a cell's vector at each level."""
    crop: Count = 32
    """Longest side of a training crop in cells."""
    crop_pairs: Count = 2
    """Pairs of crops per step."""
    anchors: Count = 128
    """Anchors per pair of crops."""
    negatives: Count = 500
    """Hardest negatives per anchor."""
    min_negative_distance_mm: Positive = 20.0
    """Closer positions are not used as negatives."""
    matching_temperature: Positive = 0.5
    """Temperature of the matcher's contrastive loss."""


class _ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each cell of feature maps (B, C, ...)."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.movedim(1, -1)).movedim(-1, 1)


class _Block(nn.Module):
    """Residual block on feature maps (B, C, D, H, W): x + convolution(ReLU(norm(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _ChannelNorm(width)
        self.convolution = Convolution3d(width, width, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.convolution(F.relu(self.norm(features)))


class AnatomicalEmbedding(nn.Module):
    """Network of the embedding, with the cell size of the grid that it was trained on."""

    cell_mm: Tensor
    """Cell size of the common grid in mm, scalar."""
    ready: Tensor
    """Whether training is complete and the weights are frozen, scalar bool."""

    def __init__(self, dimension: int, channels: int = 1) -> None:
        super().__init__()
        fine, middle, coarse = WIDTHS
        self.register_buffer("cell_mm", torch.ones(()))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))
        # Kernels are symmetric about their output cell, so that a vector describes the cell's centre.
        self.stem = nn.Conv3d(channels, fine, 4, stride=2, padding=1)
        self.down = nn.ModuleList(
            [nn.Conv3d(fine, middle, 2, stride=2), nn.Conv3d(middle, coarse, 2, stride=2)]
        )
        self.blocks = nn.ModuleList([nn.Sequential(_Block(width), _Block(width)) for width in WIDTHS])
        self.up = nn.ModuleList([nn.Conv3d(middle, fine, 1), nn.Conv3d(coarse, middle, 1)])
        self.fine = nn.Sequential(_Block(fine), _ChannelNorm(fine), nn.Conv3d(fine, dimension, 1))
        self.coarse = nn.Sequential(_ChannelNorm(coarse), nn.Conv3d(coarse, dimension, 1))

    def forward(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Embed volumes at both levels.

        Args:
            volume: Volumes on the common grid, float32 (B, C, D, H, W), with sides divisible by COARSE.

        Returns:
            Fine and coarse unit vectors, (B, F, D/2, H/2, W/2) and (B, F, D/8, H/8, W/8), float32.
        """
        fine = self.blocks[0](self.stem(volume))
        middle = self.blocks[1](self.down[0](fine))
        coarse = self.blocks[2](self.down[1](middle))
        middle = middle + _double(self.up[1](coarse))
        fine = fine + _double(self.up[0](middle))
        return F.normalize(self.fine(fine).float(), dim=1), F.normalize(self.coarse(coarse).float(), dim=1)

    @torch.no_grad()
    @full_precision
    def embed(self, volume: Tensor) -> Tensor:
        """Embed the fine cells of a volume.

        Fine and coarse vectors are concatenated, so a dot product is the mean of both cosines.

        Args:
            volume: Channels of a scan on the common grid, float32 (channels, D, H, W).

        Returns:
            Unit vectors (2C, d, h, w), with d = ceil(D / 2) and so on.
        """
        shape = volume.shape[1:]
        padding = [-length % COARSE for length in shape]
        padded = F.pad(volume[None], (0, padding[2], 0, padding[1], 0, padding[0]), mode="replicate")
        fine, coarse = self(padded)
        coarse = F.interpolate(coarse, fine.shape[2:], mode="trilinear")
        cells = tuple(slice(0, -(-length // FINE)) for length in shape)
        return side_by_side(torch.cat([fine, coarse], dim=1))[0][(slice(None), *cells)]


def _double(features: Tensor) -> Tensor:
    return F.interpolate(features, scale_factor=2, mode="trilinear")


def side_by_side(both: Tensor) -> Tensor:
    """Scale concatenated fine and coarse vectors to length sqrt(1/2) each, so that together they are unit.

    Args:
        both: Fine, then coarse vectors (B, 2C, ...).

    Returns:
        Unit vectors, same shape.
    """
    fine, coarse = both.chunk(2, dim=1)
    return torch.cat([F.normalize(fine, dim=1), F.normalize(coarse, dim=1)], dim=1) * 0.5**0.5


def matcher_in(tensors: dict[str, Tensor]) -> AnatomicalEmbedding | None:
    """The matcher of a checkpoint.

    Args:
        tensors: Named tensors of a checkpoint (any shape).

    Returns:
        The network in eval mode; None if the checkpoint has none.
    """
    state = checkpoint.unpack("modules.matcher", tensors)
    if not state:
        return None
    matcher = AnatomicalEmbedding(len(state["coarse.1.weight"]), state["stem.weight"].shape[1])
    matcher.load_state_dict(state)
    return matcher.eval()


@full_precision
def on_grid(image: Tensor, spacing_mm: Sequence[float], cell_mm: float) -> Tensor:
    """Resample a channel of a scan to the common grid, which covers the same extent.

    Args:
        image: The channel (slices, rows, columns).
        spacing_mm: Voxel spacing in mm, in the order of the axes.
        cell_mm: Cell size of the grid in mm.

    Returns:
        Volume (D, H, W) float32, at least FINE cells a side.
    """
    cells = [
        max(FINE, round(length * spacing / cell_mm))
        for length, spacing in zip(image.shape, spacing_mm, strict=True)
    ]
    # Averages voxels where cells are larger, interpolates between them where cells are smaller.
    depth, height, width = (min(count, length) for count, length in zip(cells, image.shape, strict=True))
    averaged = F.adaptive_avg_pool3d(image[None, None].float(), (depth, height, width))
    return F.interpolate(averaged, cells, mode="trilinear")[0, 0]


@full_precision
def find(query: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Find the most similar key of each query.

    Args:
        query: Unit vectors (n, F).
        keys: Unit vectors (N, F).

    Returns:
        Index of the best key (n,) int64 and its cosine (n,) in -1..1.
    """
    score, index = (query.float() @ keys.float().T).max(1)
    return index, score.clamp(-1, 1)


@dataclass(frozen=True)
class Embedded:
    """Embedding of a scan's fine cells, and the mapping between cells and voxels."""

    vectors: Tensor
    """Unit vectors (N, 2C) float16, cells in C order."""
    cells: tuple[int, ...]
    """Number of fine cells along each axis."""
    volume_shape: tuple[int, ...]
    """Shape of the scan on the common grid."""
    scan_shape: tuple[int, ...]
    """Shape of the scan in voxels."""
    body: Tensor
    """Indices of the body cells (n,) int64, or of all cells if none is brighter; on the CPU."""

    def voxel(self, number: Tensor, within: Tensor) -> Tensor:
        """Convert cells to scan voxels.

        Args:
            number: Indices of cells (...,) int64.
            within: Offsets from the cells' centres in fine cells (..., 3).

        Returns:
            Voxel coordinates (..., 3), inside the scan.
        """
        cell = torch.stack(torch.unravel_index(number, self.cells), -1)
        scan, volume = torch.tensor(self.scan_shape), torch.tensor(self.volume_shape)
        voxel = (cell + 0.5 + within) * FINE * scan / volume - 0.5
        return voxel.clamp(min=0).minimum(scan - 1.0)  # the last cell may be half outside

    def number(self, voxel: Tensor) -> Tensor:
        """Find the cells that contain scan voxels.

        Args:
            voxel: Voxel coordinates (..., 3).

        Returns:
            Indices (...,) int64.
        """
        volume, scan = torch.tensor(self.volume_shape), torch.tensor(self.scan_shape)
        cell = ((voxel + 0.5) * volume / scan / FINE).floor().long()
        cell = cell.clamp(min=0).minimum(torch.tensor(self.cells) - 1)
        _, rows, columns = self.cells
        return (cell[..., 0] * rows + cell[..., 1]) * columns + cell[..., 2]
