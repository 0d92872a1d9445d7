"""What a measurement was made on: processor, graphics card, versions, the commit of the program."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medssl import __version__


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def surroundings(device: str) -> dict[str, Any]:
    """Plain values that say where a result comes from; `device` as a job names it."""
    import torch

    from medssl import devices

    chosen = devices.choose(device)
    gpu = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else None
    return {
        "cpu": processor(),
        "gpu": gpu,
        "torch": str(torch.__version__),
        "monai": version("monai"),
        "medssl": __version__,
        "commit": commit(),
    }


@cache
def commit() -> str | None:
    """The checkout's commit, with "+" where its code was changed since; None for an installed package.

    Asked once: what a process has loaded does not change with the checkout.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        told = [
            subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, check=True).stdout
            for words in (
                ["rev-parse", "--short", "HEAD"],
                ["status", "--porcelain", "--", "training", "resources"],
            )
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    return told[0].strip() + ("+" if told[1].strip() else "")
