"""Boxes of painted patches, pasted into patches around guesses, labels and all.

So both occur in one image, and a guess is learned beside a truth: a network that sees them apart learns what
tells painted scans from others (bidirectional copy-paste, Bai et al., CVPR 2023, of which this is the half
that pastes truth into guesses; cut and paste of boxes as in CutMix, Yun et al., ICCV 2019).
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

SIDES = (0.3, 0.8)
"""Least and greatest side of a box, as a share of the patch's."""


def paste(
    images: Tensor,
    targets: Tensor,
    into_images: Tensor,
    into_targets: Tensor,
    share: float,
    generator: Generator,
) -> tuple[Tensor, Tensor]:
    """The images (B, C, ...) and targets (B, ...) to paste into, with a box of patch i in the i-th.

    share: of the patches that get a box.
    """
    size = into_targets.shape[1:]
    count, axes = len(into_targets), len(size)
    lengths = torch.tensor(size)
    sides = torch.empty(count, axes).uniform_(*SIDES, generator=generator) * lengths
    low = torch.rand(count, axes, generator=generator) * (lengths - sides)
    chosen = torch.rand(count, generator=generator) < share
    box = chosen.view(-1, *[1] * axes)
    for axis, length in enumerate(size):
        wide = [-1, *(length if one == axis else 1 for one in range(axes))]
        at = torch.arange(length)[None] + 0.5
        inside = (at > low[:, axis, None]) & (at < (low + sides)[:, axis, None])
        box = box & inside.view(wide)
    box = box.to(into_images.device)
    return torch.where(box[:, None], images, into_images), torch.where(box, targets, into_targets)
