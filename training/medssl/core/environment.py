"""Machine and program properties that are recorded with measurements: processor, memory, commit."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path


def processor() -> str:
    """Name of the processor, as far as the system reports it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def memory() -> int:
    """Physical memory of this machine in bytes; 0 if the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def peak_memory() -> int:
    """Peak memory of this process in bytes; 0 if the system does not report it."""
    try:
        import resource
    except ImportError:  # not available on Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


CODE = ("training", "napari_medssl", "resources", "benchmarks")
"""Folders of a checkout whose changes may change a result."""


@cache
def commit() -> str | None:
    """Commit of the checkout, see `commit_of`.

    Cached: the code that a process has loaded does not change with the checkout.
    """
    return commit_of(Path(__file__).resolve().parents[3])


def commit_of(root: Path) -> str | None:
    """Commit of a checkout, with "+" if its code has uncommitted changes; None for an installed package.

    Args:
        root: Its folder.
    """
    if not (root / ".git").exists():
        return None
    try:
        outputs = [
            subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=True).stdout
            for arguments in (
                ["rev-parse", "--short", "HEAD"],
                ["status", "--porcelain", "--", *CODE],
            )
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    return outputs[0].strip() + ("+" if outputs[1].strip() else "")
