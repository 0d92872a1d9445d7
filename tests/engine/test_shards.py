"""Shards of a batch: their rows are drawn, cut and changed as those of the whole batch are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from medssl.nn import distributed, shards
from medssl.nn.data.augment import STRONG, change_intensity
from medssl.nn.data.superpixels import draw_pixels
from medssl.nn.methods.supervoxels import map_random_curves
from medssl.nn.shards import BatchNorm, Shard
from medssl.tasks.segment.copy_paste import paste
from medssl.tasks.segment.pseudo_contrast import draw
from small import box, seeded, stacked
from torch import Tensor, nn

BATCH = 7
SHARDS = [Shard(BATCH, torch.arange(BATCH).tensor_split(3)[rank]) for rank in range(3)]
IMAGES = torch.randn(BATCH, 2, 12, 12, generator=seeded(1))
LABELS = torch.randint(0, 3, (BATCH, 12, 12), generator=seeded(2))


def assert_rows_of_the_whole(compute: Callable[[Shard], Any]) -> None:
    """Rows of three shards, one after the other, are those of the whole batch."""
    whole, parts = compute(Shard.whole(BATCH)), [compute(shard) for shard in SHARDS]
    for number, tensor in enumerate(whole if isinstance(whole, tuple) else (whole,)):
        rows = [part[number] if isinstance(part, tuple) else part for part in parts]
        torch.testing.assert_close(torch.cat(rows), tensor, rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_intensities(channels: int, seed: int) -> None:
    assert_rows_of_the_whole(
        lambda shard: change_intensity(shard.of(IMAGES), STRONG, seeded(seed), channels, shard)
    )


def test_intensities_of_a_shard_without_a_chosen_crop_leave_the_generator_where_others_do() -> None:
    strength = STRONG.__class__(noise=(0.15, 0.1, 0.1), blur=(0.15, 0.5, 1.0))
    states = set()
    for shard in (Shard.whole(BATCH), *SHARDS):
        generator = seeded(3)
        change_intensity(shard.of(IMAGES), strength, generator, shard=shard)
        states.add(bytes(generator.get_state().tolist()))
    assert len(states) == 1


def test_boxes_that_are_pasted() -> None:
    assert_rows_of_the_whole(
        lambda shard: paste(
            shard.of(IMAGES), shard.of(LABELS), -shard.of(IMAGES), 5 + shard.of(LABELS), 0.5, seeded(4), shard
        )
    )


def test_pixels_of_regions() -> None:
    assert_rows_of_the_whole(lambda shard: draw_pixels(shard.of(LABELS), 3, 2, 5, seeded(5), shard))


def test_curves_of_intensities() -> None:
    assert_rows_of_the_whole(lambda shard: map_random_curves(shard.of(IMAGES), seeded(6), shard))


def test_pixels_of_classes() -> None:
    def anchors(shard: Shard) -> tuple[Tensor, ...]:
        pixels = draw(shard.of(IMAGES), shard.of(LABELS), 3, 2, seeded(7), True, shard)
        return pixels.anchors, pixels.means, pixels.present

    assert_rows_of_the_whole(anchors)


def test_crops_are_taken_by_row() -> None:
    crops = stacked([box((row, 1, 2), (1, 4, 4)) for row in range(BATCH)])
    own = SHARDS[1].of(crops)
    assert own.centre[:, 0].tolist() == [3, 4]
    assert len(own) == 2


def test_rows_of_pairs_and_of_channels() -> None:
    shard = Shard(3, torch.tensor([1, 2]))
    assert shard.pairs().rows.tolist() == [1, 2, 4, 5]
    assert shard.times(2).rows.tolist() == [2, 3, 4, 5]
    chosen = shard.among(torch.tensor([True, False, True]))
    assert (chosen.count, chosen.rows.tolist()) == (2, [1])


def test_one_process_computes_as_if_there_were_no_others() -> None:
    values, shard = IMAGES[:, 0, 0], shards.shard(BATCH)
    assert shard.of(values) is values
    assert shard.gathered(values) is values
    assert shards.total(values) is values
    assert torch.equal(shards.mean(values), values.mean())
    assert torch.equal(shards.mean_row(values), values.mean(0))
    assert torch.equal(shards.std_row(values), values.std(0))
    assert distributed.go_on(0.5, lambda: True) == (0.5, True)
    assert distributed.go_on(1.0, lambda: True) == (1.0, False)
    assert distributed.decided(lambda: "yes") == distributed.in_order(lambda: "yes") == "yes"


@pytest.mark.parametrize(("shape", "norm"), [((2,), nn.BatchNorm1d), ((2, 3, 3), nn.BatchNorm2d)])
def test_one_process_has_the_batch_norm_of_torch(shape: tuple[int, ...], norm: Any) -> None:
    rows = torch.randn(5, *shape, generator=seeded())
    ours, theirs = BatchNorm(2), norm(2)
    assert torch.equal(ours(rows), theirs(rows))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name])
