"""Gradients of 3D convolutions in bf16 on maps of two planes, where torch's own are uninitialised memory."""

from __future__ import annotations

import math

import pytest
import torch
from medssl.nn.models.anatomical_embedding import AnatomicalEmbedding
from medssl.nn.models.convolution_3d import Convolution3d
from medssl.nn.models.unet import build
from small import plan
from torch import Tensor, nn


def weight_gradient(convolution: nn.Conv3d, image: Tensor, bf16: bool) -> Tensor:
    """Gradient of the weights of a convolution; memory that was freed before it is full of NaN."""
    convolution.zero_grad()
    freed = [torch.full((size,), math.nan) for size in (1_000, 30_000, 300_000, 1_000_000)]
    del freed
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        convolution(image).float().square().sum().backward()
    assert convolution.weight.grad is not None
    return convolution.weight.grad.clone()


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("kernel", [3, (3, 1, 1), (1, 3, 3)])
def test_gradients_in_bf16_are_those_in_full_precision_but_for_rounding(
    depth: int, kernel: int | tuple[int, int, int]
) -> None:
    torch.manual_seed(0)
    padding = 1 if kernel == 3 else tuple((length - 1) // 2 for length in kernel)  # type: ignore[union-attr]
    convolution = Convolution3d(16, 32, kernel, padding=padding)
    for _ in range(5):
        image = torch.randn(2, 16, depth, 8, 8)
        exact = weight_gradient(convolution, image, bf16=False)
        assert (weight_gradient(convolution, image, bf16=True) - exact).abs().max() < 0.03 * exact.abs().max()


def test_maps_stay_in_bf16() -> None:
    convolution = Convolution3d(4, 4, 3, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert {convolution(torch.ones(1, 4, depth, 4, 4)).dtype for depth in (1, 2, 3)} == {torch.bfloat16}


def test_in_full_precision_it_is_the_convolution_of_torch() -> None:
    theirs, ours = (
        nn.Conv3d(2, 4, 3, padding=1, stride=(1, 2, 2)),
        Convolution3d(2, 4, 3, padding=1, stride=(1, 2, 2)),
    )
    ours.load_state_dict(theirs.state_dict())
    for depth in (2, 4):
        image = torch.randn(1, 2, depth, 6, 6)
        assert torch.equal(ours(image), theirs(image))


@pytest.mark.parametrize("network", [lambda: build(plan(dims=3), 3, seed=0), lambda: AnatomicalEmbedding(8)])
def test_networks_have_no_other_convolution_of_three_planes(network: object) -> None:
    modules = network().modules()  # type: ignore[operator]
    assert {type(each) for each in modules if isinstance(each, nn.Conv3d) and each.kernel_size[0] == 3} == {
        Convolution3d
    }
