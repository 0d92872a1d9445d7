"""Scans that have no room in memory are learned from in their files, and nothing else is different."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from medssl.core.methods import METHODS
from medssl.core.project.annotation import IGNORE
from medssl.core.project.project import Project
from medssl.nn.data import device_dataset
from medssl.nn.data.device_dataset import image_bytes, join, load_device_dataset
from medssl.nn.models import checkpoint
from small import CPU, SHAPE, job_of, make_project, plan, run


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path, seeds=(0, 1, 2), shape=SHAPE)


@pytest.mark.parametrize("kind", [*METHODS, "finetune", "finetune-3d", "finetune-pseudo_contrast"])
def test_a_training_learns_the_same_from_files(
    project: Project, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = []
    for fraction in (device_dataset.MAX_MEMORY_FRACTION, 0):
        monkeypatch.setattr(device_dataset, "MAX_MEMORY_FRACTION", fraction)
        done = run(job_of(kind, project))
        weights.append(checkpoint.load(project.run(done["run"]).checkpoint)[0])
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        assert torch.allclose(tensor.double(), weights[1][name].double(), atol=1e-6), name


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_what_has_no_room_is_mapped_and_not_copied(
    project: Project, axis: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans, turned = list(project.scans), plan(slice_axis=axis)
    held = load_device_dataset(project, scans, turned, CPU)
    monkeypatch.setattr(device_dataset, "MAX_MEMORY_FRACTION", 0)
    mapped = load_device_dataset(project, scans, turned, CPU)
    assert (held.images[0].dtype, mapped.images[0].dtype) == (torch.float32, torch.float16)
    assert all(torch.equal(one, two.float()) for one, two in zip(held.images, mapped.images, strict=True))
    if (maps := Path("/proc/self/maps")).exists():
        assert f"{scans[0]}.npy" in maps.read_text()


def test_memory_is_needed_for_what_is_held_only(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    scans = list(project.scans)
    assert image_bytes(project, scans, CPU) == 4 * 3 * 12 * 24 * 24
    monkeypatch.setattr(device_dataset, "MAX_MEMORY_FRACTION", 0)
    assert image_bytes(project, scans, CPU) == 0


def test_scans_that_nobody_painted_need_no_memory_for_targets(project: Project) -> None:
    painted, *others = project.scans
    annotated = load_device_dataset(project, [painted], plan(), CPU, class_ids=[1])
    joined = join(annotated, load_device_dataset(project, others, plan(), CPU))
    assert joined.ids == tuple(project.scans)
    for target in joined.targets[1:]:
        assert (target == IGNORE).all() and target.shape == SHAPE
        assert target.untyped_storage().nbytes() == 1
