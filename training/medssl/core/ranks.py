"""The processes that torchrun starts for one training, as the environment describes them; without torch."""

from __future__ import annotations

import os

from medssl.core.errors import UserError

SCHEDULED = ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID")
"""Variables that torchrun and SLURM set. Nobody speaks to such a process: it is stopped by a signal."""


def world() -> int:
    """Number of processes that were started together."""
    return _number("WORLD_SIZE", 1)


def rank() -> int:
    """Number of this process among them; 0 speaks, writes and decides."""
    return _number("RANK", 0)


def local_rank() -> int:
    """Number of this process among those of its machine, and so of its GPU."""
    return _number("LOCAL_RANK", 0)


def local_world() -> int:
    """Number of processes on this machine."""
    return _number("LOCAL_WORLD_SIZE", 1)


def scheduled() -> bool:
    """Whether torchrun or SLURM started this process, so that its standard input means nothing."""
    return any(name in os.environ for name in SCHEDULED)


def _number(name: str, usual: int) -> int:
    """The number in a variable.

    Raises:
        UserError: "bad-ranks" if it holds none.
    """
    text = os.environ.get(name, str(usual))
    if not text.isdecimal():
        raise UserError(
            f"The environment variable {name} is {text!r}, and not a number as torchrun sets it; unset it, "
            "or start the training by torchrun.",
            code="bad-ranks",
        )
    return int(text)
