"""What only two channels together show is found with both, and not with one (benchmarks/channels.py)."""

from __future__ import annotations

from pathlib import Path

from channels import CHANNELS, dice, make_project

STEPS = 60


def test_what_only_both_channels_show_is_found_with_both(tmp_path: Path) -> None:
    project, truth = make_project(tmp_path)
    assert dice(project, truth, CHANNELS, STEPS) > 0.8
    assert dice(project, truth, CHANNELS[:1], STEPS) < 0.5
