"""Copy-paste: boxes of annotated crops are pasted into pseudo-labelled crops, together with their labels.

Annotations and pseudo-labels then occur in the same image. A network that sees them in separate images learns
to tell annotated scans from others (bidirectional copy-paste, Bai et al., CVPR 2023, of which only the
direction from annotations to pseudo-labels is used; boxes as in CutMix, Yun et al., ICCV 2019).
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from medssl.nn.shards import Shard

BOX_SIZE = (0.3, 0.8)
"""Smallest and largest side of a box as a fraction of the crop's side."""


def paste(
    images: Tensor,
    targets: Tensor,
    into_images: Tensor,
    into_targets: Tensor,
    prob: float,
    generator: Generator,
    shard: Shard | None = None,
) -> tuple[Tensor, Tensor]:
    """Paste a random box of each crop into the crop with the same index.

    Args:
        images: Crops to copy from, (B, C, ...) float.
        targets: Their targets, (B, ...) long.
        into_images: Crops to paste into, (B, C, ...) float.
        into_targets: Their targets, (B, ...) long.
        prob: Probability that a crop receives a box.
        generator: Source of all random draws.
        shard: Which rows of a whole batch these crops are, as draws are made for all of it; None for all.

    Returns:
        The changed images (B, C, ...) and targets (B, ...).
    """
    size = into_targets.shape[1:]
    shard = shard or Shard.whole(len(into_targets))
    count, axes = shard.count, len(size)
    lengths = torch.tensor(size)
    box_size = torch.empty(count, axes).uniform_(*BOX_SIZE, generator=generator) * lengths
    low = torch.rand(count, axes, generator=generator) * (lengths - box_size)
    chosen = torch.rand(count, generator=generator) < prob
    box = chosen.view(-1, *[1] * axes)
    for axis, length in enumerate(size):
        shape = [-1, *(length if other == axis else 1 for other in range(axes))]
        centres = torch.arange(length)[None] + 0.5
        inside = (centres > low[:, axis, None]) & (centres < (low + box_size)[:, axis, None])
        box = box & inside.view(shape)
    box = shard.of(box).to(into_images.device)
    return torch.where(box[:, None], images, into_images), torch.where(box, targets, into_targets)
