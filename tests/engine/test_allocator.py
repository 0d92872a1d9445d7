"""Arrays that come and go need no new pages from the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from medssl.core.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for turn in range(14):  # the allocator needs some turns until it has enough
    if turn == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for megabytes in (40, 16, 8):
        torch.ones(megabytes << 18)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_kept() -> None:
    faults = {}
    for setting in ("keep", "default"):
        command = [sys.executable, "-c", SCRIPT, setting]
        faults[setting] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert faults["keep"] < faults["default"] / 4
