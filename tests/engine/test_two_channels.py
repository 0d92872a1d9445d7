"""What only two channels together show is found with both, and not with one (benchmarks/channels.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from channels import CHANNELS, dice, make_project

SMALL: dict[str, Any] = {"steps": 20, "batch": 4, "rounds": []}
"""Settings of a training of seconds."""


def test_what_only_both_channels_show_is_found_with_both(tmp_path: Path) -> None:
    project, truth = make_project(tmp_path)
    assert dice(project, truth, CHANNELS, **SMALL) > 0.8
    assert dice(project, truth, CHANNELS[:1], **SMALL) < 0.5
