"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real scans; the test is skipped where it is missing."""
    folder = Path(os.environ.get("MEDSSL_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"the real scans are not at {folder} (set MEDSSL_DATA)")
    return folder
