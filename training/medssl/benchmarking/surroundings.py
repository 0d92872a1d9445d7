"""Hardware and versions that produced a result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from typing import Any

from medssl import __version__
from medssl.core.environment import commit, processor


def surroundings(device: str) -> dict[str, Any]:
    """Processor, GPU, versions and commit as JSON values.

    Args:
        device: device as named in a job; torch is not imported for "cpu", so that a viewer may ask.
    """
    return {
        "cpu": processor(),
        "gpu": None if device == "cpu" else _gpu(device),
        "torch": version("torch"),
        "monai": version("monai"),
        "medssl": __version__,
        "commit": commit(),
    }


def _gpu(device: str) -> str | None:
    import torch

    from medssl.nn import devices

    chosen = devices.choose(device)
    return torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else None


def machine_text(machine: Mapping[str, Any], threads: int | None = None) -> str:
    """Processor or GPU and torch of `surroundings`, e.g. "AMD EPYC, torch 2.13.0+cpu, 1 thread"."""
    text = f"{machine.get('gpu') or machine.get('cpu')}, torch {machine.get('torch')}"
    return text if threads is None else f"{text}, {threads} thread{'s' if threads > 1 else ''}"


def window_text() -> str:
    """Today, processor, napari and commit, for pages of what is measured in the viewer."""
    return f"{date.today():%d %B %Y}, {processor()}, napari {version('napari')}, commit {commit()}"


@dataclass(frozen=True)
class Origin:
    """When, where and by which commit a result was made."""

    day: date
    machine: str
    """See `machine_text`."""
    commit: str


def describe_origins(origins: Iterable[Origin], unit: str) -> str:
    """Number of results, dates, machines and commits; several are counted.

    Args:
        origins: One for each result.
        unit: What a result is, e.g. "cell".

    Returns:
        E.g. "5 cells, 28 November 2026 to 29 November 2026; AMD EPYC; commit a (3 cells), b (2 cells)".
    """
    origins = list(origins)
    days = sorted(origin.day for origin in origins)
    span = f"{days[0]:%d %B %Y}" + (f" to {days[-1]:%d %B %Y}" if days[0] != days[-1] else "")
    machines = _counted((origin.machine for origin in origins), unit)
    commits = _counted((origin.commit for origin in origins), unit)
    return f"{_number_of(len(origins), unit)}, {span}; {machines}; commit {commits}"


def _counted(names: Iterable[str], unit: str) -> str:
    """ "a", or "a (12 cells), b (3 cells)"."""
    counts = Counter(names)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{name} ({_number_of(count, unit)})" for name, count in counts.most_common())


def _number_of(count: int, unit: str) -> str:
    return f"{count} {unit}{'s' if count != 1 else ''}"
