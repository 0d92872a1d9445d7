"""What a result was computed on, for its record."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from medssl import __version__
from medssl.core.environment import commit, processor


def surroundings(device: str) -> dict[str, Any]:
    """Plain values that say where a result comes from; `device` as a job names it."""
    import torch  # here and not above: tables of results are read without it

    from medssl.nn import devices

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
