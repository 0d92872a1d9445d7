"""Hardware and versions that produced a result."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from medssl import __version__
from medssl.core.environment import commit, processor


def surroundings(device: str) -> dict[str, Any]:
    """Processor, GPU, versions and commit as JSON values.

    Args:
        device: device as named in a job.
    """
    import torch  # imported late: tables of results do not need it

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
