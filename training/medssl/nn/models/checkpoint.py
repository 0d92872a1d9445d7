"""Weights and everything a run needs to go on, in one safetensors file with its model card inside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from medssl.core import migrations
from medssl.core.errors import UserError
from medssl.core.files import write_json, write_whole

FORMAT = 1


def save(path: Path, tensors: dict[str, Tensor], card: dict[str, Any]) -> None:
    """Write tensors and card as one file, whole or not at all, and the card once more as card.json beside.

    The card is what a reader needs to use the weights: plan, classes, method, job, step.
    """
    body = as_bytes(tensors, card)
    write_whole(path, lambda file: file.write(body))
    write_json(path.with_name("card.json"), card)


def as_bytes(tensors: dict[str, Tensor], card: dict[str, Any]) -> bytes:
    """The content of a checkpoint's file."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return to_bytes(kept, metadata={"medssl": json.dumps({"format": FORMAT, **card})})


def load(path: Path, under: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (on the CPU) whose names begin with `under`, and card of a checkpoint.

    Raises UserError ("no-checkpoint", "foreign-checkpoint", "newer-version").
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{path} does not exist; the run was stopped before its first checkpoint, so start it anew.",
            code="no-checkpoint",
        )
    try:
        with safe_open(path, framework="pt") as file:
            card = json.loads((file.metadata() or {})["medssl"])
            _check_format(path, card)
            names = {name: migrations.tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            tensors = {new: file.get_tensor(name) for name, new in names.items() if new.startswith(under)}
            return tensors, migrations.card(card)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} is not a checkpoint of this program ({error}); choose a run that medssl made.",
            code="foreign-checkpoint",
        ) from error


def _check_format(path: Path, card: dict[str, Any]) -> None:
    if card["format"] > FORMAT:
        raise UserError(
            f"{path} was written by a newer version of medssl; update this one to read it.",
            code="newer-version",
        )


def pack(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under names that start with `prefix` and a dot."""
    return {f"{prefix}.{name}": tensor for name, tensor in state.items()}


def unpack(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `pack`; tensors under other prefixes are left out."""
    start = prefix + "."
    return {name[len(start) :]: tensor for name, tensor in tensors.items() if name.startswith(start)}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state as named tensors: "<parameter number>.<name>"."""
    return {
        f"{number}.{name}": torch.as_tensor(value)
        for number, entry in optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put `optimizer_tensors` back; learning rates are the schedule's business and stay."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
