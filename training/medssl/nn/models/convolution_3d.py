"""3D convolution without a defect of CPUs with bf16 instructions."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Convolution3d(nn.Conv3d):
    """`torch.nn.Conv3d` whose gradients are right in bf16 on maps of two planes.

    With torch 2.13 (oneDNN) on a CPU, the gradient of a kernel of three planes over a map of two is
    uninitialised memory in bf16: NaN, or 1e36. Such maps, the coarsest ones of thin scans, are convolved in
    full precision, which takes little time because they are small.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Convolve feature maps (B, C, D, H, W); returns (B, C', D', H', W')."""
        thin = features.shape[2] == 2 and self.kernel_size[0] > 2
        if not thin or features.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(features)
        with torch.autocast("cpu", enabled=False):
            return super().forward(features.float()).to(torch.get_autocast_dtype("cpu"))
