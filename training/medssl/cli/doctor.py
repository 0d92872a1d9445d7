"""What `medssl doctor` prints: versions, devices, memory, and the plan for training here."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from medssl import __version__
from medssl.core.environment import processor

PACKAGES = ("torch", "monai", "napari", "numpy", "scipy", "nibabel", "SimpleITK", "pydicom", "safetensors")
GIB = 2**30


def report(console: Console, project: Path | None) -> None:
    """Print everything that decides how a training runs on this machine."""
    facts = _grid()
    facts.add_row("medssl", __version__)
    facts.add_row("Python", f"{platform.python_version()} on {platform.platform()}")
    facts.add_row("packages", ", ".join(f"{name} {_version(name)}" for name in PACKAGES))
    facts.add_row("processor", f"{processor()}, {_cores()} cores for us")
    facts.add_row("memory", _memory())
    free = shutil.disk_usage(Path.cwd()).free
    facts.add_row("disk", f"{free / GIB:.0f} GiB free in {Path.cwd()}")
    for name, text in _devices():
        facts.add_row(name, text)
    console.print(facts)
    console.print()
    console.print(_plan(project))


def _plan(project: Path | None) -> Table:
    """What the planner would choose, for a project's scans or for a phantom."""
    from medssl.core.project.project import Project
    from medssl.nn import devices
    from medssl.tasks import planner

    with tempfile.TemporaryDirectory(prefix="medssl-") as scratch:
        if project is None:
            from medssl.core.phantom import write_dataset

            data = write_dataset(Path(scratch) / "data", [0])
            opened = Project.create(Path(scratch) / "project")
            opened.add_scan(next((data / "imagesTr").iterdir()))
            subject = "a CT of the trunk (a phantom; give a project to see the choice for its scans)"
        else:
            opened = Project.open(project)
            subject = f"the scans of {project}"
        device = devices.choose("auto")
        plan, reasons = planner.choose(opened, list(opened.scans), device, {})
    table = _grid()
    table.add_row("would train", f"on {devices.describe(device)}, for {subject}")
    table.add_row("plan", f"{'2.5D' if plan.dims == 2 else '3D'}, batch {plan.batch}, {plan.precision}")
    for reason in reasons:
        table.add_row("", reason)
    return table


def _devices() -> list[tuple[str, str]]:
    """Each device torch can use, with what it is good for."""
    import torch

    from medssl.nn import devices

    names = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    names += ["mps"] if torch.backends.mps.is_available() else []
    lines = []
    for name in names:
        device = torch.device(name)
        bf16 = "bf16 in hardware" if devices.fast_bf16(device) else "no bf16 in hardware, so fp32"
        lines.append((f"device {name}", f"{devices.describe(device)}, {bf16}"))
    return lines


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # not on Windows and macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _memory() -> str:
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = (page * os.sysconf(name) / GIB for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return "unknown on this system"
    return f"{free:.1f} of {total:.1f} GiB free"


def _grid() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    return table
