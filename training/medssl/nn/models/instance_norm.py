"""Instance norm that keeps the memory format in which CPUs convolve fastest."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class InstanceNorm(nn.Module):
    """Instance norm with scale and shift, equal to `torch.nn.InstanceNorm2d(channels, eps, affine=True)`.

    On a CPU, convolutions of channels-last images take half the time, but `torch.nn.functional.instance_norm`
    copies its input to the other format and its output stays there. The batch norm of a single image is its
    instance norm, and keeps the format; a step is 1.1 to 1.5 times as fast (docs/benchmarks/cpu_step.md).

    Args:
        channels: Number of channels C.
        eps: Added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, image: Tensor) -> Tensor:
        """Normalize each channel of each image.

        Args:
            image: Feature maps (B, C, H, W).

        Returns:
            Normalized feature maps (B, C, H, W), on a CPU in the same memory format.
        """
        if image.device.type != "cpu" or not image.is_contiguous(memory_format=torch.channels_last):
            return F.instance_norm(image, weight=self.weight, bias=self.bias, eps=self.eps)
        if len(image) == 1:
            return self._of_one(image)
        return torch.cat([self._of_one(each) for each in image.split(1)])

    def _of_one(self, image: Tensor) -> Tensor:
        """Normalize the feature maps (1, C, H, W) of one image."""
        return F.batch_norm(image, None, None, self.weight, self.bias, training=True, eps=self.eps)
