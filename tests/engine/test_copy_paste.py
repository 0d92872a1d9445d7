"""Boxes of painted patches in patches around pseudo-labels."""

from __future__ import annotations

import pytest
import torch
from medssl.tasks.segment.copy_paste import BOX_SIZE, paste
from small import seeded
from torch import Tensor

SIZES = {2: (24, 32), 3: (12, 16, 20)}


def batch(dims: int, value: float, count: int = 40) -> tuple[Tensor, Tensor]:
    size = SIZES[dims]
    images = torch.full((count, 3 if dims == 2 else 1, *size), value)
    return images, torch.full((count, *size), int(value))


@pytest.mark.parametrize("dims", [2, 3])
def test_images_and_labels_are_pasted_alike_and_only_as_boxes(dims: int) -> None:
    images, targets = paste(*batch(dims, 7), *batch(dims, 3), 1.0, seeded())
    assert torch.equal(images[:, 0].long(), targets)
    for one in targets == 7:
        places = one.nonzero()
        low, high = places.amin(0), places.amax(0) + 1
        assert one.sum() == (high - low).prod()
        for side, length in zip((high - low).tolist(), SIZES[dims], strict=True):
            assert BOX_SIZE[0] * length - 1 <= side <= BOX_SIZE[1] * length + 1


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_so_many_patches_get_one(share: float) -> None:
    _, targets = paste(*batch(2, 7, 400), *batch(2, 3, 400), share, seeded())
    assert (targets == 7).flatten(1).any(1).float().mean().item() == pytest.approx(share, abs=0.08)


def test_boxes_lie_all_over_a_patch() -> None:
    _, targets = paste(*batch(2, 7, 400), *batch(2, 3, 400), 1.0, seeded())
    often = (targets == 7).float().mean(0)
    assert often[1:-1, 1:-1].min() > 0
    assert often.max() < 0.9


def test_what_it_is_given_stays_and_the_generator_decides() -> None:
    painted, pseudo_labelled = batch(2, 7), batch(2, 3)
    one, other = (paste(*painted, *pseudo_labelled, 0.5, seeded(4))[1] for _ in range(2))
    assert torch.equal(one, other)
    assert (pseudo_labelled[1] == 3).all()
    assert not torch.equal(one, paste(*painted, *pseudo_labelled, 0.5, seeded(5))[1])
