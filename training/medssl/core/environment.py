"""What a measurement was made on: processor, memory, graphics card, versions, the commit of the program."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def memory() -> int:
    """Bytes of memory that this machine has; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def peak_memory() -> int:
    """Bytes of memory that this process has needed at most so far; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows has none
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


@cache
def commit() -> str | None:
    """The checkout's commit, with "+" where its code was changed since; None for an installed package.

    Asked once: what a process has loaded does not change with the checkout.
    """
    root = Path(__file__).resolve().parents[3]
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
