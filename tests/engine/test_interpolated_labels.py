"""What fine-tuning takes from labels interpolated between complete slices, and what these weigh."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from medssl.core.jobs import FinetuneJob
from medssl.core.labels.shape_interpolation import fill
from medssl.core.project.project import IGNORE, Annotation, Project
from medssl.nn.data.device_dataset import DeviceDataset, load_device_dataset
from medssl.tasks.plan.planner import choose
from medssl.tasks.segment.finetune import make_task
from medssl.tasks.segment.interpolated_labels import InterpolatedLabels
from small import CPU, FINETUNE, Events, Shape, make_project, plan


def fill_first_gap(project: Project, scan: str, axis: int) -> np.ndarray:
    """Interpolate after the first complete slice of a scan; returns the class ids, IGNORE elsewhere."""
    annotation = project.annotation(scan)
    assert annotation is not None
    first = min(index for along, index in annotation.complete if along == axis)
    pseudo_labels = fill(annotation, axis, first, (1, 1, 1))
    filled = Annotation(annotation.labels, annotation.complete, pseudo_labels)
    project.save_annotation(scan, filled)
    target = filled.interpolated_target()
    assert target is not None
    return target


@pytest.mark.parametrize(("axis", "shape"), [(0, (12, 24, 20)), (2, (20, 24, 12))])
def test_only_interpolated_voxels_of_scans_that_have_some_are_targets(
    tmp_path: Path, axis: int, shape: Shape
) -> None:
    project = make_project(tmp_path, seeds=(0, 1, 2), shape=shape, axis=axis, annotated=3)
    plain, *filled = project.annotated()
    pseudo_labels = [fill_first_gap(project, scan, axis) for scan in filled]
    small = plan(slice_axis=axis)
    dataset = load_device_dataset(project, [plain, *filled], small, CPU, [1])
    found = InterpolatedLabels.of(project, dataset, small, [1])
    assert found is not None
    assert found.dataset.ids == tuple(filled)
    for target, labels in zip(found.dataset.targets, pseudo_labels, strict=True):
        assert np.array_equal(target.numpy(), np.transpose(labels, small.work_axes))
        assert (target != IGNORE).any()


def without_a_slice(dataset: DeviceDataset) -> DeviceDataset:
    """As if a complete slice of the first scan were held back."""
    first, *others = dataset.targets
    held = first.clone()
    held[(held != IGNORE).all((1, 2)).nonzero()[0]] = IGNORE
    return replace(dataset, targets=(held, *others))


def test_a_scan_of_which_a_slice_is_held_back_gives_none(tmp_path: Path) -> None:
    project = make_project(tmp_path, shape=(12, 24, 20), annotated=2)
    scans = project.annotated()
    dataset = without_a_slice(load_device_dataset(project, scans, plan(), CPU, [1]))
    fill_first_gap(project, scans[0], 0)
    assert InterpolatedLabels.of(project, dataset, plan(), [1]) is None
    fill_first_gap(project, scans[1], 0)
    found = InterpolatedLabels.of(project, dataset, plan(), [1])
    assert found is not None
    assert found.dataset.ids == (scans[1],)


def loss_of(project: Project, weight: float) -> tuple[float, dict[str, torch.Tensor]]:
    """Of a first step."""
    job = FinetuneJob(
        project=str(project.root), steps=1, settings={**FINETUNE, "interpolated_weight": weight}
    )
    device = torch.device("cpu")
    plan, _ = choose(project, list(project.annotated()), device, job.settings)
    _, task = make_task(project, job, plan, device, Events())
    loss, numbers = task.loss(torch.Generator().manual_seed(0), 0.0)
    return float(loss), numbers


def test_fine_tuning_learns_from_a_fill_with_a_lower_weight(tmp_path: Path) -> None:
    project = make_project(tmp_path, shape=(12, 24, 24))
    scan = project.annotated()[0]
    plain, numbers = loss_of(project, 0.3)
    assert "interpolated" not in numbers
    annotation = project.annotation(scan)
    assert annotation is not None
    inside = [index for axis, index in annotation.complete if axis == 0]
    pseudo_labels = fill(annotation, 0, inside[0], (1, 1, 1))
    project.save_annotation(scan, Annotation(annotation.labels, annotation.complete, pseudo_labels))
    loss, numbers = loss_of(project, 0.3)
    assert float(numbers["loss"]) == pytest.approx(plain), "painted voxels count as before"
    assert loss == pytest.approx(plain + 0.3 * float(numbers["interpolated"]), rel=1e-5)
