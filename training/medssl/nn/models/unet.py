"""One encoder-decoder for 2.5D and 3D, cut out of MONAI's DynUNet so that every level can be reached.

DynUNet (Isensee et al., nnU-Net, in MONAI's re-implementation) hides its levels inside nested skip
layers and registers its blocks twice. Here the same blocks stand in a row: `encode` gives the feature
map of every resolution, `decode` goes back up, `head` turns the finest map into class scores.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import DynUNet
from torch import Tensor, nn
from torch.nn import functional as F

from medssl.core import jobs
from medssl.core.jobs import Plan
from medssl.nn.methods import decoder_describes
from medssl.nn.models import checkpoint

ENCODER_WEIGHT = 0.6
"""Of encoder levels beside the decoder's maps, where places are compared."""


class Network(nn.Module):
    """Encoder, decoder and head for one Plan.

    In 2.5D the input is (B, S, H, W) with S neighbouring slices as channels, in 3D (B, 1, D, H, W).
    Sizes that the strides do not divide are padded by replication and cut off again.
    """

    def __init__(self, plan: Plan, out_channels: int) -> None:
        super().__init__()
        in_channels = plan.patch_vox[0] if plan.dims == 2 else 1
        kernels = [(3,) * plan.dims] * len(plan.channels)
        strides = [tuple(stride) for stride in plan.strides]
        blocks = DynUNet(
            spatial_dims=plan.dims,
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=kernels,
            strides=strides,
            upsample_kernel_size=strides[1:],
            filters=list(plan.channels),
            res_block=True,
        )
        self.encoder = nn.ModuleList([blocks.input_block, *blocks.downsamples, blocks.bottleneck])
        self.decoder = nn.ModuleList(blocks.upsamples)
        self.head = blocks.output_block
        self.decoder_describes = False
        total = torch.tensor(strides).prod(0)
        self.total_stride: tuple[int, ...] = tuple(int(stride) for stride in total)

    def encode(self, image: Tensor) -> list[Tensor]:
        """Feature maps of all levels, finest first: (B, plan.channels[level], ...)."""
        levels = []
        features = image
        for block in self.encoder:
            features = block(features)
            levels.append(features)
        return levels

    def decode(self, levels: list[Tensor]) -> Tensor:
        """The finest decoder map (B, plan.channels[0], ...) from all encoder levels."""
        return self.decoder_maps(levels, len(self.decoder))[-1]

    def decoder_maps(self, levels: list[Tensor], blocks: int) -> list[Tensor]:
        """The deepest encoder level and the maps of so many decoder blocks, coarsest first."""
        maps = [levels[-1]]
        for block, skip in zip(self.decoder[:blocks], reversed(levels[:-1]), strict=False):
            maps.append(block(maps[-1], skip))
        return maps

    def describe(self, image: Tensor) -> list[Tensor]:
        """Maps by which places are compared (similarity, landmarks, colours), weighted by `map_weights`.

        All encoder levels; where `decoder_describes`, the deepest one, the decoder's maps without the finest,
        whose few channels tell borders rather than places, and the other encoder levels, which know grey
        values (docs/benchmarks/LOG.md, "Which maps describe a place").
        """
        levels = self.encode(image)
        if not self.decoder_describes:
            return levels
        return [*self.decoder_maps(levels, len(self.decoder) - 1), *levels[:-1]]

    @property
    def map_weights(self) -> list[float]:
        """What each of the maps of `describe` weighs."""
        if not self.decoder_describes:
            return [1.0] * len(self.encoder)
        return [1.0] * len(self.decoder) + [ENCODER_WEIGHT] * (len(self.encoder) - 1)

    def finest(self, image: Tensor) -> Tensor:
        """The finest decoder map (B, plan.channels[0], ...) at the input's resolution; what `head` reads."""
        padded, size = self.pad(image)
        features = self.decode(self.encode(padded))
        inside: Any = (..., *(slice(0, length) for length in size))
        cropped: Tensor = features[inside]
        return cropped

    def forward(self, image: Tensor) -> Tensor:
        """Class scores (B, out_channels, ...) at the input's resolution, before softmax."""
        scores: Tensor = self.head(self.finest(image))
        return scores

    def pad(self, image: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """The image grown at its far ends to what the strides divide, and its size before."""
        size = tuple(image.shape[2:])
        grow: list[int] = []
        for length, stride in zip(reversed(size), reversed(self.total_stride), strict=True):
            # Two cells at the bottom: normalising a single one would leave nothing of it.
            wanted = max(-(-length // stride) * stride, 2 * stride)
            grow += [0, wanted - length]
        return (F.pad(image, grow, mode="replicate") if any(grow) else image), size


def load_matching(module: nn.Module, state: dict[str, Tensor], skip: tuple[str, ...] = ()) -> set[str]:
    """Copy the tensors of `state` that `module` has in the same shape, except under the prefixes `skip`.

    Returns the names of the tensors that were filled.
    """
    own = module.state_dict()
    fitting = {
        name: tensor
        for name, tensor in state.items()
        if name in own
        and own[name].shape == tensor.shape
        and not any(name.startswith(prefix) for prefix in skip)
    }
    module.load_state_dict(fitting, strict=False)
    return set(fitting)


def build(plan: Plan, out_channels: int, seed: int) -> Network:
    """A network with random weights that depend on the seed only, not on what was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(plan, out_channels)


def load_network(path: Path) -> tuple[Network, Plan, dict[str, Any]]:
    """The network of a checkpoint (its moving average, where it keeps one) with plan and card.

    Raises UserError where the file is missing or foreign.
    """
    tensors, card = checkpoint.load(path)
    plan = jobs.from_json(Plan, card["plan"], str(path))
    name = "average" if any(key.startswith("modules.average.") for key in tensors) else "network"
    state = checkpoint.unpack(f"modules.{name}", tensors)
    head = next(tensor for key, tensor in state.items() if key.endswith("head.conv.conv.weight"))
    network = Network(plan, len(head))
    network.load_state_dict(state)
    network.decoder_describes = card["kind"] == "pretrain" and decoder_describes(str(card.get("method")))
    return network.eval(), plan, card
