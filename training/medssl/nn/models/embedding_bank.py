"""Embeddings of the scans of a dataset, computed on request and cached in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.models.anatomical_embedding import (
    COARSE,
    FINE,
    AnatomicalEmbedding,
    Embedded,
    EmbeddingSettings,
    on_grid,
)

T = TypeVar("T")
BANK_BYTES = 2 << 30
"""Size limit of the cached embeddings, and of the cached scans on the common grid."""
PASSES = 8
"""How often in a training the window of cached scans passes over the dataset, if not all of them fit."""
BODY = 0.2
"""A cell is body if its first channel is brighter than this fraction of that channel's intensity range."""


class _RecentlyUsed(Generic[T]):
    """Cache of at most BANK_BYTES that drops the least recently used entries, but never the latest."""

    def __init__(self, make: Callable[[int], tuple[T, int]]) -> None:
        """`make` computes the entry of a key, and its size in bytes."""
        self._make = make
        self._entries: dict[int, tuple[T, int]] = {}

    def __getitem__(self, key: int) -> T:
        entry = self._entries.pop(key, None) or self._make(key)
        self._entries[key] = entry  # last: a dict keeps the order of insertion
        while len(self._entries) > 1 and sum(size for _, size in self._entries.values()) > BANK_BYTES:
            del self._entries[next(iter(self._entries))]
        return entry[0]

    def __len__(self) -> int:
        return len(self._entries)


class EmbeddingBank:
    """Scans of a dataset on the common grid and their embeddings, computed on request.

    All embeddings would take 26 GiB for 200 scans of the published size. Therefore memory is bounded: if they
    do not fit, a window of the scans in a fixed random order is cached, which moves on during the training.

    Args:
        dataset: Scans.
        matcher: The embedding's network.
        settings: Gives the grid, the crop size and the distance of negatives.
    """

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
        cells = (size / self.cell_mm).round().clamp(min=FINE)
        self.volume_bytes = int(4 * len(dataset.channels) * cells.prod(1).mean())
        self.vector_bytes = int(4 * settings.dimension * (cells / FINE).ceil().prod(1).mean())
        """Mean size of a scan's embedding: two levels, float16."""
        self.capacity = min(len(dataset.images), max(2, BANK_BYTES // self.vector_bytes))
        """Number of scans whose embeddings are cached."""
        self._order = torch.randperm(len(dataset.images), generator=Generator().manual_seed(0))
        self._volumes = _RecentlyUsed(self._on_grid)
        self._embedded = _RecentlyUsed(self._embed)

    def kept_bytes(self, scans: int) -> int:
        """Maximum size in bytes of what is cached of a dataset with that many scans."""
        return sum(min(BANK_BYTES, scans * size) for size in (self.volume_bytes, self.vector_bytes))

    def window(self, fraction: float) -> Tensor:
        """The scans that are cached after a fraction of all pairs has been drawn.

        Args:
            fraction: Fraction of all pairs drawn so far, 0 to 1.

        Returns:
            Indices of scans (capacity,) int64; all scans if they fit.
        """
        count = len(self.dataset.images)
        if self.capacity == count:
            return torch.arange(count)
        first = int(fraction * PASSES * count)
        return self._order[(first + torch.arange(self.capacity)) % count]

    def volume(self, scan: int) -> tuple[Tensor, Tensor]:
        """The channels of a scan on the common grid, float32 (C, D, H, W), and its body threshold.

        The threshold is a scalar tensor, for the first channel.
        """
        return self._volumes[scan]

    def embedded(self, scan: int) -> Embedded:
        """The embedding of a scan; call it only once the matcher is `ready`, as the result is cached."""
        return self._embedded[scan]

    def _on_grid(self, scan: int) -> tuple[tuple[Tensor, Tensor], int]:
        spacing, device = self.dataset.spacing_mm[scan], self.dataset.device
        images = (images[scan].to(device) for images in self.dataset.channels)
        volume = torch.stack([on_grid(image, spacing, self.cell_mm) for image in images])
        ordered = volume[0].flatten().sort().values
        low, high = ordered[len(ordered) // 100], ordered[-1 - len(ordered) // 100]
        return (volume, low + BODY * (high - low)), volume.nbytes

    def _embed(self, scan: int) -> tuple[Embedded, int]:
        volume, floor = self.volume(scan)
        vectors = self.matcher.embed(volume)
        grey = F.avg_pool3d(volume[:1], FINE, ceil_mode=True).flatten()
        body = (grey > floor).nonzero()[:, 0].cpu()
        embedded = Embedded(
            vectors.flatten(1).T.half().contiguous(),
            tuple(vectors.shape[1:]),
            tuple(volume.shape[1:]),
            tuple(self.dataset.images[scan].shape),
            body if len(body) else torch.arange(len(grey)),
        )
        return embedded, embedded.vectors.nbytes
