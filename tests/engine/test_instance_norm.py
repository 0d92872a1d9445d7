"""Instance norm in the memory format of fast convolutions: torch's numbers."""

from __future__ import annotations

import pytest
import torch
from medssl.nn.models.instance_norm import InstanceNorm
from medssl.nn.models.unet import build
from small import plan, seeded
from torch import Tensor, nn


def image(*shape: int, last: bool = True) -> Tensor:
    drawn = torch.randn(*shape, generator=seeded()) * 3 + 1
    return drawn.to(memory_format=torch.channels_last if last else torch.contiguous_format)


def norms(channels: int) -> tuple[nn.InstanceNorm2d, InstanceNorm]:
    """torch's and ours with the same scale and shift."""
    theirs, ours = nn.InstanceNorm2d(channels, affine=True), InstanceNorm(channels)
    with torch.no_grad():
        theirs.weight.uniform_(0.5, 2, generator=seeded(1))
        theirs.bias.normal_(generator=seeded(2))
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("shape", [(3, 5, 7, 9), (1, 4, 2, 2), (2, 1, 6, 6)])
def test_outputs_and_gradients_are_those_of_torch(shape: tuple[int, ...], last: bool) -> None:
    results = []
    for norm in norms(shape[1]):
        given = image(*shape, last=last).requires_grad_()
        output = norm(given)
        (output * torch.linspace(-1, 1, output.numel()).view(output.shape)).sum().backward()
        results.append((output, given.grad, norm.weight.grad, norm.bias.grad))
    for theirs, ours in zip(*results, strict=True):
        assert torch.allclose(theirs, ours, atol=1e-4)


def test_an_image_does_not_depend_on_the_others_of_its_batch() -> None:
    _, norm = norms(4)
    batch = image(3, 4, 8, 8)
    assert torch.allclose(norm(batch)[1:2], norm(batch[1:2]), atol=1e-6)
    norm.eval()
    assert torch.allclose(norm(batch)[1:2], norm(batch[1:2]), atol=1e-6), "nor on what was seen in training"


def test_the_memory_format_stays_what_it_is() -> None:
    _, norm = norms(4)
    assert norm(image(2, 4, 8, 8)).is_contiguous(memory_format=torch.channels_last)
    assert norm(image(2, 4, 8, 8, last=False)).is_contiguous()


def test_half_precision_is_normalized_with_scales_of_full_precision() -> None:
    theirs, ours = norms(4)
    given = image(2, 4, 16, 16).bfloat16()
    assert ours(given).dtype == torch.bfloat16
    assert torch.allclose(theirs(given.contiguous()).float(), ours(given).float(), atol=0.05)


def test_networks_of_slices_have_no_other_norm() -> None:
    modules = list(build(plan(2), 3, seed=0).modules())
    assert not any(isinstance(module, nn.InstanceNorm2d) for module in modules)
    assert any(isinstance(module, InstanceNorm) for module in modules)
