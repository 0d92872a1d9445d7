"""The processes that torchrun starts for one training, as the environment describes them; without torch."""

from __future__ import annotations

import os

SCHEDULED = ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID")
"""Variables that torchrun and SLURM set. Nobody speaks to such a process: it is stopped by a signal."""


def world() -> int:
    """Number of processes that were started together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process among them; 0 speaks, writes and decides."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Number of this process among those of its machine, and so of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world() -> int:
    """Number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def scheduled() -> bool:
    """Whether torchrun or SLURM started this process, so that its standard input means nothing."""
    return any(name in os.environ for name in SCHEDULED)
