"""Blocks of the U-Net: those of MONAI's DynUNet, with the same numbers under the same names.

MONAI's own cost every process that computes, and so everybody who waits for it, four seconds: `import monai`
loads all of its subpackages. tests/engine/test_unet.py compares the networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl.nn.models.convolution_3d import Convolution3d
from medssl.nn.models.instance_norm import InstanceNorm

SLOPE = 0.01
"""Slope of the leaky ReLU below 0."""


class _TwoConvolutions(nn.Module):
    """Two convolutions, each with instance norm and leaky ReLU.

    Args:
        dims: 2 or 3 spatial dimensions.
        in_channels: Channels C of the input.
        channels: Channels C' of the output.
        stride: Stride of the first convolution along each axis, 1 or 2; None for 1.
    """

    def __init__(
        self, dims: int, in_channels: int, channels: int, stride: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.conv1 = _convolution(dims, in_channels, channels, 3, stride)
        self.conv2 = _convolution(dims, channels, channels, 3)
        self.norm1, self.norm2 = _norm(dims, channels), _norm(dims, channels)

    def forward(self, features: Tensor) -> Tensor:
        """Compute feature maps (B, C', ...) of feature maps (B, C, ...)."""
        return _leaky_relu(self._normalised(features))

    def _normalised(self, features: Tensor) -> Tensor:
        """The output before the last leaky ReLU."""
        features = _leaky_relu(self.norm1(self.conv1(features)))
        normalised: Tensor = self.norm2(self.conv2(features))
        return normalised


class ResidualBlock(_TwoConvolutions):
    """The same with a shortcut, which is a convolution where shapes change."""

    def __init__(self, dims: int, in_channels: int, channels: int, stride: Sequence[int]) -> None:
        super().__init__(dims, in_channels, channels, stride)
        self.reshapes = in_channels != channels or max(stride) > 1
        if self.reshapes:
            self.conv3 = _convolution(dims, in_channels, channels, 1, stride)
            self.norm3 = _norm(dims, channels)

    def forward(self, features: Tensor) -> Tensor:
        """Compute feature maps (B, C', ...) of feature maps (B, C, ...)."""
        shortcut = self.norm3(self.conv3(features)) if self.reshapes else features
        features = self._normalised(features)
        features += shortcut
        return _leaky_relu(features)


class UpsamplingBlock(nn.Module):
    """A transposed convolution to the size of a finer map, then two convolutions of both together.

    Args:
        dims: 2 or 3 spatial dimensions.
        in_channels: Channels C of the coarser map.
        channels: Channels C' of the finer map and of the output.
        stride: How much finer that map is along each axis, 1 or 2.
    """

    def __init__(self, dims: int, in_channels: int, channels: int, stride: Sequence[int]) -> None:
        super().__init__()
        transposed: Any = (nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 2]
        self.transp_conv = _Named(transposed(in_channels, channels, tuple(stride), tuple(stride), bias=False))
        self.conv_block = _TwoConvolutions(dims, 2 * channels, channels)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """Compute the finer map anew.

        Args:
            features: Coarser feature map (B, C, ...).
            skip: Finer feature map of the encoder (B, C', ...).

        Returns:
            Feature map (B, C', ...) of the finer one's size.
        """
        joined: Tensor = self.conv_block(torch.cat((self.transp_conv(features), skip), dim=1))
        return joined


class Head(nn.Module):
    """Logits of each voxel's features.

    Args:
        dims: 2 or 3 spatial dimensions.
        in_channels: Channels C of the features.
        out_channels: Number of logits K.
    """

    def __init__(self, dims: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = _convolution(dims, in_channels, out_channels, 1, bias=True)

    def forward(self, features: Tensor) -> Tensor:
        """Compute logits (B, K, ...) of feature maps (B, C, ...)."""
        logits: Tensor = self.conv(features)
        return logits


def initialise(module: nn.Module) -> None:
    """Draw the weights of a convolution (He et al. 2015, for the leaky ReLU); biases are 0. Others stay."""
    if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class _Named(nn.Module):
    """A convolution under the name that MONAI gives it within its block."""

    def __init__(self, conv: nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(features)


def _convolution(
    dims: int,
    in_channels: int,
    channels: int,
    kernel: int,
    stride: Sequence[int] | None = None,
    bias: bool = False,
) -> _Named:
    """A convolution, padded so that its output is as large as its input, or a stride's fraction of it."""
    convolution: Any = (nn.Conv2d, Convolution3d)[dims - 2]
    return _Named(
        convolution(in_channels, channels, kernel, tuple(stride or [1] * dims), kernel // 2, bias=bias)
    )


def _norm(dims: int, channels: int) -> nn.Module:
    return InstanceNorm(channels) if dims == 2 else nn.InstanceNorm3d(channels, affine=True)


def _leaky_relu(features: Tensor) -> Tensor:
    return F.leaky_relu(features, SLOPE, inplace=True)
