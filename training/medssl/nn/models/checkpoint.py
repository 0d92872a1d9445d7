"""Checkpoints: weights and all state that resuming needs, in one safetensors file with its model card.

Safetensors, because nothing in it is unpickled. `core/weights_file.py` has the card and its hash.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from medssl.core import migrations, weights_file
from medssl.core.files import write_whole
from medssl.core.json_files import write_json


def save(path: Path, tensors: dict[str, Tensor], card: dict[str, Any]) -> None:
    """Write a checkpoint atomically, and its card as card.json beside it.

    Args:
        path: Path of the checkpoint.
        tensors: Named tensors of any shape.
        card: What is needed to use the weights: plan, classes, method, job, step.
    """
    body = as_bytes(tensors, card)
    write_whole(path, lambda file: file.write(body))
    write_json(path.with_name("card.json"), card)


def as_bytes(tensors: dict[str, Tensor], card: dict[str, Any]) -> bytes:
    """Serialise a checkpoint.

    Args:
        tensors: Named tensors of any shape.
        card: Model card.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return weights_file.with_hash(to_bytes(contiguous, metadata=weights_file.metadata(card)))


def load(path: Path, under: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint.

    Args:
        path: Path of the checkpoint.
        under: Prefix of the names of the tensors to read; empty for all.

    Returns:
        Named tensors on the CPU, and the model card.

    Raises:
        UserError: "no-checkpoint" if the file does not exist, "not-readable" if the drive or the permissions
            prevent reading it, "foreign-checkpoint" if it is not one, "newer-version" if a newer version of
            medssl wrote it, "damaged-checkpoint" if it is not as it was written.
    """
    path = Path(path)
    with weights_file.checked(path):
        try:
            with safe_open(path, framework="pt") as file:
                card = weights_file.card_in(file.metadata() or {}, path)
                names = {name: migrations.tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
                tensors = {new: file.get_tensor(name) for name, new in names.items() if new.startswith(under)}
        except SafetensorError as error:
            raise ValueError(str(error)) from error
    return tensors, card


def pack(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Prefix the names of tensors: "<prefix>.<name>".

    Args:
        prefix: Prefix without the dot.
        state: Named tensors of any shape.
    """
    return {f"{prefix}.{name}": tensor for name, tensor in state.items()}


def unpack(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Select the tensors with a prefix and remove it: the inverse of `pack`.

    Args:
        prefix: Prefix without the dot.
        tensors: Named tensors of any shape.
    """
    start = prefix + "."
    return {name[len(start) :]: tensor for name, tensor in tensors.items() if name.startswith(start)}
