"""kill -9 to the viewer while somebody paints costs the last stroke at most.

MEDSSL_KILLS=20 kills more often than the default.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
from medssl.core.project.annotation import Annotation
from medssl.core.project.project import LabelClass, Project
from medssl.core.project.stroke_log import StrokeLog, apply, journal_file, journal_length
from painter import WIDTH, place

pytestmark = pytest.mark.viewer
KILLS = int(os.environ.get("MEDSSL_KILLS", "2"))
LONGEST_S = 4.0
"""The painter is killed within so many seconds after its first stroke."""
SHAPE = (24, 24, 12)


def start(project: Project, first: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("painter.py"))]
    return subprocess.Popen(
        [*command, str(project.root), str(first)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def killed(project: Project, first: int, after_s: float) -> tuple[int, list[int]]:
    """How many voxels the painter found at its start, and those of each stroke until it was killed."""
    painter = start(project, first)
    assert painter.stdout is not None
    lines = iter(painter.stdout.readline, "")
    ready = next((line for line in lines if line.startswith("holds")), None)  # napari says its own before
    assert ready is not None, painter.communicate()[1]
    time.sleep(after_s)
    painter.kill()
    rest, _ = painter.communicate(timeout=60)
    return int(ready.split()[1]), [int(line) for line in rest.splitlines() if line.isdigit()]


def on_disk(project: Project) -> Annotation:
    """What the next viewer brings back."""
    (scan,) = project.scans
    saved = project.annotation(scan) or Annotation(np.zeros(SHAPE[::-1], np.uint8))
    return apply(saved, StrokeLog(journal_file(project.root, scan), SHAPE[::-1]).read().strokes)


@pytest.mark.timeout(120 + 90 * KILLS)
def test_a_killed_viewer_loses_the_last_stroke_at_most(tmp_path: Path) -> None:
    """Killed again and again, it finds at each start what was painted before."""
    project = Project.create(tmp_path / "project", (LabelClass(1, "Structure", "#ff9e64"),))
    values = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "scan.nii")
    project.add_scan(tmp_path / "scan.nii")
    moments, made, lost, left_over = random.Random(1), list[int](), 0, 0
    for _ in range(KILLS):
        before = np.count_nonzero(on_disk(project).labels)
        holds, strokes = killed(project, len(made), moments.uniform(0.2, LONGEST_S))
        assert holds == before, "the next start finds all that is on the disk"
        made += strokes
        labels = on_disk(project).labels
        there = [np.count_nonzero(_stroke(labels, number)) for number in range(len(made))]
        missing = [number for number, voxels in enumerate(made) if there[number] != voxels]
        assert set(missing) <= {len(made) - 1}
        lost += len(missing)
        left_over += journal_length(next((project.root / "annotations").glob("*.strokes"), Path("none"))) > 0
        made = there
        if _stroke(labels, len(made)).any():  # on the disk before it could be said
            made.append(np.count_nonzero(_stroke(labels, len(made))))
    print(f"\n{KILLS} kills, {len(made)} strokes, {lost} lost, {left_over} times the journal had some")
    assert sum(made)


def _stroke(labels: np.ndarray, number: int) -> np.ndarray:
    index, row, column = place(number)
    return labels[index, row, column : column + WIDTH]
