"""U-Net for 2.5D and 3D: the residual network of nnU-Net (Isensee et al.) as MONAI's DynUNet has it.

DynUNet nests its levels in skip layers. Here the blocks are lists: `encode` gives the feature maps of all
levels, `decode` the finest decoder map, `head` turns that into logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl.core.jobs import Plan
from medssl.nn.models.blocks import Head, ResidualBlock, UpsamplingBlock, initialise
from medssl.nn.models.cuda_graphs import Recordable

ENCODER_WEIGHT = 0.6
"""Weight of encoder levels relative to decoder maps in `Network.describe`."""

CHANNELS_LAST_FROM = 16
"""Channels from which images are convolved channels-last on a CPU: with fewer, the backward pass of a strided
1x1 convolution overwrites memory of others (torch 2.13, github.com/uxlfoundation/oneDNN/issues/6035)."""


class Encoder(nn.ModuleList):
    """The encoder's blocks, finest first."""

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps of all levels.

        Args:
            image: Images (B, C S, H, W) or (B, C, D, H, W), sides divisible by the strides.

        Returns:
            Feature maps, finest first (B, channels of the level, ...).
        """
        levels = []
        features = image
        for block in self:
            features = block(features)
            levels.append(features)
        return tuple(levels)


class Decoder(nn.ModuleList):
    """The decoder's blocks, coarsest first."""

    def maps(self, levels: Sequence[Tensor], blocks: int) -> list[Tensor]:
        """Compute the maps of the first blocks.

        Args:
            levels: Feature maps of all encoder levels, finest first (B, C, ...).
            blocks: Number of blocks.

        Returns:
            The deepest encoder level and the maps of the blocks, coarsest first (B, C, ...).
        """
        maps = [levels[-1]]
        for block, skip in zip(self[:blocks], reversed(levels[:-1]), strict=False):
            maps.append(block(maps[-1], skip))
        return maps

    def forward(self, *levels: Tensor) -> tuple[Tensor]:
        """The finest map alone, (B, C, ...), of the feature maps of all encoder levels, finest first."""
        return (self.maps(levels, len(self))[-1],)


class Network(Recordable):
    """Encoder, decoder and head of one plan.

    The input is (B, C S, H, W) in 2.5D, with S neighbouring slices of each of the C images of a scan as
    channels, and (B, C, D, H, W) in 3D.
    `forward` pads sizes that the strides do not divide by replication and crops the result.

    Args:
        plan: Architecture.
        out_channels: Number of output channels, such as classes with background.
    """

    def __init__(self, plan: Plan, out_channels: int) -> None:
        super().__init__()
        dims, channels, strides = plan.dims, plan.channels, plan.strides
        inputs = (plan.in_channels, *channels)
        levels = range(len(channels))
        self.encoder = Encoder(ResidualBlock(dims, inputs[n], channels[n], strides[n]) for n in levels)
        self.decoder = Decoder(
            UpsamplingBlock(dims, channels[n], channels[n - 1], strides[n]) for n in reversed(levels[1:])
        )
        self.head = Head(dims, channels[0], out_channels)
        self.apply(initialise)
        self.decoder_describes = False
        self.in_channels = plan.in_channels
        self.channels_last = plan.dims == 2 and min(plan.channels[:-1]) >= CHANNELS_LAST_FROM
        total = torch.tensor(plan.strides).prod(0)
        self.total_stride: tuple[int, ...] = tuple(int(stride) for stride in total)

    def encode(self, image: Tensor) -> list[Tensor]:
        """Compute the encoder's feature maps.

        Args:
            image: Images (B, C S, H, W) or (B, C, D, H, W), sides divisible by the strides.

        Returns:
            Feature maps of all levels, finest first: (B, plan.channels[level], ...).
        """
        if image.device.type == "cpu" and self.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)  # see instance_norm.py
        return list(self.run(self.encoder, image))

    def decode(self, levels: list[Tensor]) -> Tensor:
        """Compute the finest decoder map.

        Args:
            levels: Feature maps of all encoder levels, finest first (B, plan.channels[level], ...).

        Returns:
            Feature map (B, plan.channels[0], ...).
        """
        return self.run(self.decoder, *levels)[0]

    def decoder_maps(self, levels: list[Tensor], blocks: int) -> list[Tensor]:
        """Compute the maps of the first decoder blocks.

        Args:
            levels: Feature maps of all encoder levels, finest first (B, plan.channels[level], ...).
            blocks: Number of decoder blocks.

        Returns:
            The deepest encoder level and the maps of the decoder blocks, coarsest first.
        """
        return self.decoder.maps(levels, blocks)

    def describe(self, image: Tensor) -> list[Tensor]:
        """Compute the feature maps that describe a position (similarity, landmarks, colours).

        All encoder levels. With `decoder_describes` these are the deepest encoder level, the decoder maps
        without the finest, whose few channels encode borders rather than positions, and the other encoder
        levels, which encode intensities (docs/benchmarks/LOG.md, "Which maps describe a place").

        Args:
            image: Images (B, C S, H, W) or (B, C, D, H, W), sides divisible by the strides.

        Returns:
            Feature maps (B, C, ...), to be weighted by `map_weights`.
        """
        levels = self.encode(image)
        if not self.decoder_describes:
            return levels
        return [*self.decoder_maps(levels, len(self.decoder) - 1), *levels[:-1]]

    @property
    def map_weights(self) -> list[float]:
        """Weights of the maps of `describe`."""
        if not self.decoder_describes:
            return [1.0] * len(self.encoder)
        return [1.0] * len(self.decoder) + [ENCODER_WEIGHT] * (len(self.encoder) - 1)

    def finest(self, image: Tensor) -> Tensor:
        """Compute the input of `head`: the finest decoder map at the input's resolution.

        Args:
            image: Images of any size (B, C S, H, W) or (B, C, D, H, W).

        Returns:
            Feature map (B, plan.channels[0], ...).
        """
        padded, size = self.pad(image)
        features = self.decode(self.encode(padded))
        inside: Any = (..., *(slice(0, length) for length in size))
        cropped: Tensor = features[inside]
        return cropped

    def forward(self, image: Tensor) -> Tensor:
        """Compute logits.

        Args:
            image: Images of any size (B, C S, H, W) or (B, C, D, H, W).

        Returns:
            Logits (B, out_channels, ...) at the input's resolution.
        """
        scores: Tensor = self.head(self.finest(image))
        return scores

    def pad(self, image: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Pad images at their far ends so that the strides divide their sides.

        Args:
            image: Images of any size (B, C S, H, W) or (B, C, D, H, W).

        Returns:
            Padded images and the size before.
        """
        size = tuple(image.shape[2:])
        padding: list[int] = []
        for length, stride in zip(reversed(size), reversed(self.total_stride), strict=True):
            # At least two cells at the deepest level: instance norm turns a single one into 0.
            padded = max(-(-length // stride) * stride, 2 * stride)
            padding += [0, padded - length]
        return (F.pad(image, padding, mode="replicate") if any(padding) else image), size


def build(plan: Plan, out_channels: int, seed: int) -> Network:
    """Build a network with random weights, which depend on the seed alone, not on torch's global state.

    Args:
        plan: Architecture.
        out_channels: Number of output channels.
        seed: Seed of the weights.

    Example:
        >>> network = build(plan, out_channels=2, seed=0)
        >>> logits = network(image)
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(plan, out_channels)
