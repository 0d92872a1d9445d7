"""The network as the DynUNet of MONAI, for programs that have MONAI and not this package."""

from __future__ import annotations

from typing import Any

from monai.networks.nets import DynUNet
from torch import Tensor

from medssl.core.jobs import Plan
from medssl.nn.models.unet import Network


def dynunet_arguments(plan: Plan, out_channels: int) -> dict[str, Any]:
    """Arguments of MONAI's DynUNet for the network of a plan, JSON-able.

    Args:
        plan: Architecture.
        out_channels: Number of output channels.
    """
    strides = [list(stride) for stride in plan.strides]
    return {
        "spatial_dims": plan.dims,
        "in_channels": plan.in_channels,
        "out_channels": out_channels,
        "kernel_size": [[3] * plan.dims] * len(strides),
        "strides": strides,
        "upsample_kernel_size": strides[1:],
        "filters": list(plan.channels),
        "res_block": True,
    }


def dynunet_state(network: Network) -> dict[str, Tensor]:
    """Weights of a network under DynUNet's names, each once, of any shape.

    DynUNet registers its blocks a second time, under "skip_layers".
    """
    return {_renamed(name, len(network.encoder)): tensor for name, tensor in network.state_dict().items()}


def to_dynunet(network: Network, plan: Plan) -> DynUNet:
    """A DynUNet in evaluation mode with the weights of a network, which gives the same logits.

    Its input has sides that the strides divide: it does not pad as `Network` does.

    Args:
        network: The network.
        plan: Its plan.
    """
    state = dynunet_state(network)
    dynunet = DynUNet(**dynunet_arguments(plan, len(state["output_block.conv.conv.weight"])))
    dynunet.load_state_dict(state, strict=False)  # those of "skip_layers" are the same tensors
    return dynunet.eval()


def _renamed(name: str, levels: int) -> str:
    """DynUNet's name of a weight; the last of `levels` encoder blocks is the bottleneck."""
    part, _, rest = name.partition(".")
    if part == "head":
        return f"output_block.{rest}"
    if part == "decoder":
        return f"upsamples.{rest}"
    number, _, rest = rest.partition(".")
    blocks = ["input_block", *(f"downsamples.{index}" for index in range(levels - 2)), "bottleneck"]
    return f"{blocks[int(number)]}.{rest}"
