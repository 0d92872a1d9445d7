"""Checkpoints: weights and all state that resuming needs, in one safetensors file with its model card.

Safetensors, because nothing in it is unpickled. The card inside has the SHA-256 of the whole file, in which
64 zeros stand in its place: file and hash are written at once.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from medssl.core import migrations
from medssl.core.errors import UserError
from medssl.core.files import check_readable, write_json, write_whole
from medssl.core.project.cards import check_card

FORMAT = 1
HASH = "content_sha256"
"""Field of the card inside a file."""
_STORED_HASH = re.compile(rb'\\"%s\\": \\"([0-9a-f]{64})' % HASH.encode())
_NO_HASH = "0" * 64
_MAX_HEADER = 100_000_000
"""Longest header that safetensors reads."""


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
    metadata = json.dumps({"format": FORMAT, HASH: _NO_HASH, **card})
    body = to_bytes(contiguous, metadata={"medssl": metadata})
    return body.replace(_NO_HASH.encode(), hashlib.sha256(body).hexdigest().encode(), 1)


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
    if not path.is_file():
        raise UserError(
            f"{path} does not exist; the run stopped before its first checkpoint, so start it again.",
            code="no-checkpoint",
        )
    try:
        status = path.stat()
        if not _is_whole(path, status.st_mtime_ns, status.st_size):
            raise UserError(
                f"{path} is damaged: it is not as it was written; restore it from a backup, or train again.",
                code="damaged-checkpoint",
            )
        with safe_open(path, framework="pt") as file:
            card = json.loads((file.metadata() or {})["medssl"])
            _check_format(path, card)
            card = check_card(card, str(path))
            _check_place(path, card)
            card.pop(HASH, None)
            names = {name: migrations.tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            tensors = {new: file.get_tensor(name) for name, new in names.items() if new.startswith(under)}
            return tensors, card
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RecursionError) as error:
        check_readable(path, error)
        raise UserError(
            f"{path} is not a medssl checkpoint ({error}); choose a run that medssl made.",
            code="foreign-checkpoint",
        ) from error


@lru_cache(maxsize=64)
def _is_whole(path: Path, modified_ns: int, size: int) -> bool:
    """Whether a file has the hash that its card says; former versions stored none."""
    with path.open("rb") as file:
        start = file.read(8)
        start += file.read(min(int.from_bytes(start, "little"), _MAX_HEADER))
        stored = _STORED_HASH.search(start)
        if stored is None:
            return True
        digest = hashlib.sha256(start[: stored.start(1)] + _NO_HASH.encode() + start[stored.end(1) :])
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest() == stored[1].decode()


def _check_format(path: Path, card: dict[str, Any]) -> None:
    if isinstance(card["format"], int) and card["format"] > FORMAT:
        raise UserError(
            f"{path} was written by a newer version of medssl; update medssl to read it.",
            code="newer-version",
        )


def _check_place(path: Path, card: dict[str, Any]) -> None:
    """Weights of one run in the folder of another one would predict under its name."""
    run, folder = card.get("run", path.parent.name), path.parent
    if folder.parent.name == "runs" and run != folder.name:
        raise UserError(
            f"{path} is the checkpoint of run {run}; put it back there, and restore that of {folder.name} "
            "from a backup.",
            code="damaged-checkpoint",
        )


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
