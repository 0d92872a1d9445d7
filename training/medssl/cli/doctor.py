"""Output of `medssl doctor`: versions, devices, memory, and the training plan for this machine."""

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
    """Print what determines how a training runs on this machine.

    Args:
        console: where to print.
        project: project folder to plan for; None plans for a phantom.
    """
    facts = _grid()
    facts.add_row("medssl", __version__)
    facts.add_row("Python", f"{platform.python_version()} on {platform.platform()}")
    facts.add_row("packages", ", ".join(f"{name} {_version(name)}" for name in PACKAGES))
    facts.add_row("processor", f"{processor()}, {_cores()} cores available")
    facts.add_row("memory", _memory())
    free = shutil.disk_usage(Path.cwd()).free
    facts.add_row("disk", f"{free / GIB:.0f} GiB free in {Path.cwd()}")
    for name, text in _devices():
        facts.add_row(name, text)
    console.print(facts)
    console.print()
    console.print(_plan(project))


def _plan(project: Path | None) -> Table:
    """The planner's choice for the scans of a project or for a phantom."""
    from medssl.core.project.project import Project
    from medssl.nn import devices
    from medssl.tasks.plan import planner

    with tempfile.TemporaryDirectory(prefix="medssl-") as scratch:
        if project is None:
            from medssl.core.phantom import write_dataset

            data = write_dataset(Path(scratch) / "data", [0])
            opened = Project.create(Path(scratch) / "project")
            opened.add_scan(next((data / "imagesTr").iterdir()))
            subject = "a synthetic CT of the trunk (give a project to see the plan for its scans)"
        else:
            opened = Project.open(project)
            subject = f"the scans of {project}"
        device = devices.choose("auto")
        plan, reasons = planner.choose(opened, list(opened.scans), device, {})
    table = _grid()
    table.add_row("training", f"on {devices.describe(device)}, for {subject}")
    size, pixels = plan.patch_vox[3 - plan.dims :], planner.PIXELS_A_STEP_FINETUNING_CPU
    finetuning = planner.patches_a_step(size, device, pixels)
    batch = f"batch {plan.batch} in pre-training, {finetuning} in fine-tuning"
    table.add_row("plan", f"{'2.5D' if plan.dims == 2 else '3D'}, {batch}, {plan.precision}")
    for reason in reasons:
        table.add_row("", reason)
    return table


def _devices() -> list[tuple[str, str]]:
    """Rows for the devices that torch can use: name, description and support of bf16."""
    import torch

    from medssl.nn import devices

    names = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    names += ["mps"] if torch.backends.mps.is_available() else []
    rows = []
    for name in names:
        device = torch.device(name)
        bf16 = "bf16 in hardware" if devices.fast_bf16(device) else "no bf16 in hardware: fp32"
        rows.append((f"device {name}", f"{devices.describe(device)}, {bf16}"))
    return rows


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
