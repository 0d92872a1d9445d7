"""The properties of masked auto-encoding: what is hidden, and that only it counts."""

from __future__ import annotations

import pytest
import torch
from medssl.nn.methods.mae import MAE, MAESettings, draw_mask, masked, masked_error
from medssl.nn.models.unet import build
from small import dataset, noise, plan, seeded


def blocks_hidden(visible: torch.Tensor, block_shape: tuple[int, ...]) -> torch.Tensor:
    """(B, blocks) whether each block is hidden; fails where one is hidden in part."""
    for axis, side in enumerate(block_shape, start=1):
        visible = torch.stack([each.amin(axis) for each in visible.split(side, axis)], axis)
    return visible.flatten(1) == 0


@pytest.mark.parametrize("ratio", [0.25, 0.6, 0.75])
@pytest.mark.parametrize("size", [(32, 64), (16, 32, 48)])
def test_exact_masked_count(size: tuple[int, ...], ratio: float) -> None:
    visible = draw_mask(5, size, 4, ratio, seeded())
    total = visible[0].numel() // 4 ** len(size)
    hidden = (1 - visible).flatten(1).sum(1)
    assert hidden.tolist() == [int(ratio * total) * 4 ** len(size)] * 5


@pytest.mark.parametrize("size", [(32, 64), (16, 32, 48), (17, 30), (9, 21, 30)])
def test_block_alignment(size: tuple[int, ...]) -> None:
    visible = draw_mask(3, size, 4, 0.6, seeded())
    block_shape = tuple(min(4, length // 4) for length in size)
    assert set(visible.unique().tolist()) == {0, 1}
    for axis, side in enumerate(block_shape, start=1):
        for block in visible.split(side, axis):
            assert (block == block.narrow(axis, 0, 1)).all(), "a block is hidden in part"
    assert blocks_hidden(visible, block_shape).sum(1).unique().numel() == 1


def test_blocks_differ_between_samples() -> None:
    one, two = draw_mask(2, (32, 32), 4, 0.5, seeded())
    assert not torch.equal(one, two)


def test_blocks_are_made_smaller_where_fewer_than_four_fit() -> None:
    visible = draw_mask(1, (8, 32), 16, 0.5, seeded())
    assert blocks_hidden(visible, (2, 8)).sum() == 8


def test_zero_gradient_from_visible_voxels() -> None:
    visible = draw_mask(2, (16, 16), 4, 0.5, seeded())[:, None]
    predicted = torch.randn(2, 3, 16, 16, generator=seeded(), requires_grad=True)
    masked_error(predicted, torch.zeros(2, 3, 16, 16), visible).backward()
    assert predicted.grad is not None
    seen = visible.expand_as(predicted) == 1
    assert (predicted.grad[seen] == 0).all()
    assert (predicted.grad[~seen] != 0).all()


def test_perfect_reconstruction_gives_zero() -> None:
    image = torch.randn(2, 1, 16, 16, generator=seeded())
    visible = draw_mask(2, (16, 16), 4, 0.5, seeded())[:, None]
    assert masked_error(image, image, visible) == 0
    assert masked_error(image + visible, image, visible) == 0, "visible voxels count"


def test_the_error_is_the_mean_square_over_masked_voxels() -> None:
    visible = torch.tensor([[[[1.0, 0, 0, 1]]]])
    image, predicted = torch.zeros(1, 2, 1, 4), torch.zeros(1, 2, 1, 4)
    predicted[0, 0, 0] = torch.tensor([9.0, 2, 4, 9])
    assert masked_error(predicted, image, visible).item() == pytest.approx((4 + 16) / 4)
    single = (slice(None), slice(1), slice(None), slice(1, 2))
    assert masked_error(predicted[single], image[single], visible[..., 1:2]) == 4, "also of a single voxel"


def test_ratio_zero_is_finite() -> None:
    visible = draw_mask(2, (16, 16), 4, 0.0, seeded())[:, None]
    assert (visible == 1).all()
    predicted = torch.ones(2, 1, 16, 16, requires_grad=True)
    loss = masked_error(predicted, torch.zeros(2, 1, 16, 16), visible)
    loss.backward()
    assert loss == 0
    assert predicted.grad is not None
    assert (predicted.grad == 0).all()


@pytest.mark.parametrize("size", [(17, 30), (9, 21, 30), (1, 5), (2, 3, 4)])
def test_sizes_that_blocks_do_not_divide(size: tuple[int, ...]) -> None:
    visible = draw_mask(3, size, 4, 0.5, seeded())
    assert visible.shape == (3, *size)
    assert (visible.flatten(1).amin(1) == 0).all()
    assert (visible.flatten(1).amax(1) == 1).all()


@pytest.mark.parametrize("dims", [2, 3])
def test_a_step_trains_encoder_and_decoder(dims: int) -> None:
    small = plan(dims)
    method = MAE(build(small, 3 if dims == 2 else 1, 0), small, MAESettings(block=4))
    loss, _ = method.loss(dataset(noise((12, 30, 30)), noise((5, 9, 30))), seeded(), 0.0)
    loss.backward()
    assert loss.isfinite()
    assert all(
        each.grad is not None and each.grad.isfinite().all()
        for each in method.modules["network"].encoder.parameters()
    )
    heads = [*method.modules["network"].decoder.parameters(), *method.modules["network"].head.parameters()]
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in heads)


def test_neighbouring_slices_are_masked_together() -> None:
    """A block that shows in the next slice would give the answer away."""
    small = plan(2)
    method = MAE(build(small, 3, 0), small, MAESettings(block=4))
    seen: list[torch.Tensor] = []
    method.modules["network"].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    method.loss(dataset(noise((12, 30, 30)) + 100), seeded(), 0.0)
    hidden = torch.stack([image == image.flatten().mode().values for image in seen[0]])
    assert 0.7 < hidden.float().mean() < 0.8
    assert (hidden == hidden[:, :1]).all()
    for image, gone in zip(seen[0], hidden, strict=True):
        assert torch.allclose(image[gone], image[~gone].mean(), rtol=1e-4)


def test_hidden_voxels_become_the_mean_of_what_is_visible() -> None:
    """0 would be soft tissue in CT. The mean tells nothing of what is hidden, and shifts with the scan."""
    image = torch.randn(2, 3, 8, 8, generator=seeded()) + 5
    visible = draw_mask(2, (8, 8), 2, 0.5, seeded())[:, None]
    found = masked(image, visible)
    for one, result, seen in zip(image, found, visible.expand_as(image) == 1, strict=True):
        assert torch.equal(result[seen], one[seen])
        assert torch.allclose(result[~seen], one[seen].mean())
    assert torch.allclose(masked(image - 7, visible), found - 7, atol=1e-5)
    other = torch.where(visible == 0, image + 100, image)
    assert torch.equal(masked(other, visible), found), "it tells what is hidden"


def test_where_nothing_is_visible_nothing_is_told() -> None:
    assert (masked(torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)) == 0).all()
