"""A network as an ONNX file, for onnxruntime and what else reads it.

Written by torch's exporter of torch.export graphs; the former one, of TorchScript, is deprecated. The graph
pads and crops, so images may have any size, and ends with the softmax.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medssl.core.files import write_whole
from medssl.nn.models.dynunet import to_dynunet
from medssl.tasks.inference.predict import Trained
from medssl.tasks.weights_out.agreement import largest_difference

INPUT, OUTPUT = "image", "probabilities"
AXES = ("slices", "rows", "columns")
"""Names of the sides of images, of which 2.5D networks have the last two."""
TRACES = ("metadata_props", "doc_string")
"""Fields in which the exporter notes the source files that a node comes from: paths on this machine."""


class Probabilities(nn.Module):
    """MONAI's network from images of any size to probabilities, in operations that ONNX has.

    Args:
        network: Maps images whose sides the strides divide to logits.
        strides: Total stride along each axis.
    """

    def __init__(self, network: nn.Module, strides: Sequence[int]) -> None:
        super().__init__()
        self.network, self.strides = network, tuple(strides)

    def forward(self, image: Tensor) -> Tensor:
        """Compute probabilities.

        Args:
            image: Images of any size (B, C S, H, W) or (B, C, D, H, W).

        Returns:
            Probabilities (B, 1 + K, ...) at the input's resolution.
        """
        size = image.shape[2:]
        padding: list[Any] = []
        for length, stride in zip(reversed(size), reversed(self.strides), strict=True):
            cells = torch.sym_max((length + stride - 1) // stride, 2)  # as in Network.pad
            padding += [0, cells * stride - length]
        logits = self.network(F.pad(image, padding, mode="replicate"))
        inside: Any = (..., *(slice(0, length) for length in size))
        return logits[inside].softmax(1)


def write_onnx(path: Path, trained: Trained, facts: dict[str, Any], inputs: Sequence[Tensor]) -> float:
    """Write a network as an ONNX file, once onnxruntime has computed the same with it.

    Args:
        path: The file.
        trained: The network, on the CPU.
        facts: Goes into the file's metadata, each value as JSON.
        inputs: Batches of images to compare on, each (B, C, ...).

    Returns:
        The largest difference of a probability.

    Raises:
        UserError: "disagree", "disk-full", "not-writable".
    """
    content = onnx_bytes(trained, facts)
    difference = largest_difference(trained, inputs, _runner(content), "The ONNX file")
    write_whole(path, lambda file: file.write(content))
    return difference


def onnx_bytes(trained: Trained, facts: dict[str, Any]) -> bytes:
    """The content of an ONNX file.

    Args:
        trained: The network, on the CPU.
        facts: Goes into the metadata, each value as JSON.
    """
    import onnx

    network = trained.network
    module = Probabilities(to_dynunet(network, trained.plan), network.total_stride).eval()
    # Sizes that no side has in common and that need padding, or the graph would keep them.
    sizes = [3 * stride + 1 + axis for axis, stride in enumerate(network.total_stride)]
    dynamic = dict.fromkeys((0, *range(2, 2 + len(sizes))), torch.export.Dim.DYNAMIC)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, which nobody needs
        program = torch.onnx.export(
            module,
            (torch.zeros(2, network.in_channels, *sizes),),
            dynamo=True,
            dynamic_shapes=(dynamic,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _clear_traces(model)
    del model.graph.value_info[:]  # sizes between layers; whoever runs it infers them
    for value in (model.graph.input[0], model.graph.output[0]):
        batch, _, *sides = value.type.tensor_type.shape.dim
        for dimension, name in zip((batch, *sides), ("batch", *AXES[-len(sides) :]), strict=True):
            dimension.dim_param = name
    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in facts.items()})
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _clear_traces(message: Any) -> None:
    """Clear the fields TRACES of a protobuf message and of all messages in it."""
    for field, value in message.ListFields():
        if field.name in TRACES:
            message.ClearField(field.name)
        elif field.type == field.TYPE_MESSAGE:
            for each in [value] if hasattr(value, "ListFields") else value:
                _clear_traces(each)


def _runner(content: bytes) -> Any:
    """A function that computes the probabilities of images (B, C, ...) with onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run([OUTPUT], {INPUT: image.numpy()})[0])
