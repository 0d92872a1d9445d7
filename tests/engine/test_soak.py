"""Half a minute of the soak test (benchmarks/soak.py), with a fixed seed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="its processes are forked")
def test_damage_and_kills_lose_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), "--minutes", "0.5", "--seed", "0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
