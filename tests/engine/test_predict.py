"""Whole scans are segmented at their own size and in their own order, slab by slab."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from medssl import engine
from medssl.core import jobs
from medssl.core.errors import UserError
from medssl.core.events import Notice, Preview, Progress
from medssl.core.jobs import FinetuneJob, Plan, PredictJob
from medssl.core.project.project import LabelClass, Project
from medssl.core.project.training_data import training_data
from medssl.nn.models import checkpoint
from medssl.nn.models.unet import build
from medssl.tasks.inference import scores
from medssl.tasks.inference.predict import segment, segment_work, top1_posterior
from small import CPU, FINETUNE, Events, block_phantom, dice, make_project, never, plan
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

MM: tuple[float, float, float] = (1.0, 1.0, 1.0)


class Threshold(nn.Module):
    """Knows at every voxel what is above zero; one score for each class."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, image: Tensor) -> Tensor:
        middle = image[:, image.shape[1] // 2, None]
        return torch.cat([-middle, middle, *[middle - 1000] * (self.classes - 2)], dim=1)


def signs(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """+50 or -50 at every voxel: no smoothing can change what it says."""
    return np.random.default_rng(seed).choice([-50, 50], shape).astype(np.float16)


@pytest.mark.parametrize("shape", [(7, 33, 18), (1, 5, 9), (29, 4, 3)])
@pytest.mark.parametrize("slice_axis", [0, 1, 2])
@pytest.mark.parametrize("dims", [2, 3])
def test_every_voxel_gets_its_own_label(dims: int, slice_axis: int, shape: tuple[int, int, int]) -> None:
    image, spacing = signs(shape), list(MM)
    if dims == 2:
        spacing[slice_axis] = 5.0  # slices far apart are not blended
    labels, _ = segment(Threshold(), plan(dims, slice_axis=slice_axis), [image], spacing, CPU)  # type: ignore[arg-type]
    assert labels.dtype == np.uint8
    assert labels.flags.c_contiguous
    assert np.array_equal(labels, image > 0)


@pytest.mark.parametrize("spacing", [(1.0, 0.5, 0.7), (2.0, 2.0, 2.0), (5.0, 1.0, 1.02)])
@pytest.mark.parametrize("slice_axis", [0, 1, 2])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_spacing_other_than_the_plans_gives_labels_on_the_scans_own_grid(
    dims: int, slice_axis: int, spacing: tuple[float, float, float]
) -> None:
    grid = np.stack(np.meshgrid(*map(np.arange, (20, 31, 42)), indexing="ij"), -1)
    image = 8 - np.linalg.norm((grid - [9, 14, 25]) * [1, 1.2, 0.6], axis=-1)
    labels, _ = segment(
        Threshold(), plan(dims, slice_axis=slice_axis), [image.astype(np.float16)], spacing, CPU
    )  # type: ignore[arg-type]
    assert labels.shape == image.shape
    assert dice(labels, image > 0) > 0.9


@pytest.mark.parametrize("dims", [2, 3])
def test_real_networks_take_every_size(dims: int) -> None:
    small = plan(dims)
    network = build(small, 3, 0).eval()
    for shape in [(5, 17, 30), (1, 3, 2), (9, 16, 16)]:
        labels, _ = segment(
            network, small, [np.random.default_rng(0).normal(size=shape)], (3.0, 0.8, 0.9), CPU
        )
        assert labels.shape == shape
        assert labels.max() <= 2


def test_slabs_leave_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    small = plan(2)
    network = build(small, 3, 0).eval()
    image = np.random.default_rng(0).normal(size=(23, 16, 16)).astype(np.float32)
    whole, _ = segment(network, small, [image], MM, CPU)
    monkeypatch.setattr(scores, "PIXELS_AT_ONCE", 16 * 16 * 5)
    slabs, _ = segment(network, small, [image], MM, CPU)
    assert (whole != slabs).mean() < 1e-3, "sums may round differently, nothing else"


class Largest(TorchDispatchMode):
    """Remembers the most numbers that a floating tensor held."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else (result,):
            if isinstance(each, Tensor) and each.is_floating_point():
                # Views of something larger hold nothing of their own.
                self.numbers = max(self.numbers, each.untyped_storage().nbytes() // each.element_size())
        return result


@pytest.mark.parametrize("spacing", [MM, (1.0, 1.3, 1.3)])
@pytest.mark.parametrize("dims", [2, 3])
def test_scores_of_the_whole_scan_are_never_in_memory(dims: int, spacing: tuple[float, float, float]) -> None:
    """Four scores at 128 x 128 x 128 voxels would be 8.4 million numbers."""
    wide = plan(dims, patch_vox=(3, 64, 64) if dims == 2 else (16, 64, 64))
    needed = []
    for slices in (128, 256):
        with Largest() as largest:
            segment(Threshold(4), wide, [np.ones((slices, 128, 128), np.float16)], spacing, CPU)  # type: ignore[arg-type]
        needed.append(largest.numbers)
    assert needed[0] < 4 * 128**3 / 2
    assert needed[1] == needed[0], "twice the slices need more memory"


@pytest.mark.parametrize("dims", [2, 3])
def test_what_is_likely_is_what_is_predicted_before_anything_is_decided(dims: int) -> None:
    image = torch.from_numpy(signs((7, 33, 18)))
    image[3] = 0
    found = top1_posterior(Threshold(), plan(dims), [image], (5.0, 1.0, 1.0), CPU)  # type: ignore[arg-type]
    whole = segment_work(Threshold(), plan(dims), [image], (5.0, 1.0, 1.0), CPU)  # type: ignore[arg-type]
    assert found.best.unique().tolist() == [1]
    known = image != 0
    assert torch.equal((found.probability > found.background)[known], whole[known] == 1)
    assert (found.probability[known].int() - found.background[known].int()).abs().min() > 200
    assert (found.probability[~known].int() - found.background[~known].int()).abs().max() <= 1


def predictor(project: Project, small: Plan, kind: str = "finetune", seed: int = 0, **fields: Any) -> str:
    """A run with random weights for the project's classes."""
    run = project.new_run(kind, {"job": kind}, "from-random")
    network = build(small, len(project.classes) + 1, seed)
    classes = [{"id": each.id, "name": each.name} for each in project.classes]
    card = {"kind": kind, "plan": jobs.to_json(small), "classes": classes, "step": 0, **fields}
    checkpoint.save(run.checkpoint, checkpoint.pack("modules.network", network.state_dict()), card)
    return run.id


def test_predictions_are_kept_under_the_ids_of_the_classes(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    project.change_classes(
        lambda _: (LabelClass(3, "liver", "#ff0000"), LabelClass(200, "spleen", "#00ff00"))
    )
    run = predictor(project, plan(2))
    events = Events()
    result = engine.run(PredictJob(project=str(project.root), weights=run), events, never)
    assert result["scans"] == list(project.scans)
    assert [event.scan for event in events.of(Preview)] == list(project.scans)
    progress = [(event.fraction, event.step) for event in events.of(Progress)]
    assert progress == [(0.0, 0), (0.5, 1), (1.0, 2)]
    for scan in project.scans:
        labels = project.prediction(run, scan)
        assert labels is not None
        assert set(np.unique(labels)) <= {0, 3, 200}


def test_a_scan_unlike_those_of_the_training_is_named_once(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    like, unlike = project.scans.values()
    project.change_modality(unlike.id, "pt", "user")
    run = predictor(project, plan(2), training_data=training_data([like]))
    events = Events()
    engine.run(PredictJob(project=str(project.root), weights=run), events, never)
    assert [event.text for event in events.of(Notice)] == [
        f"{unlike.id} has PET, but the network was trained on scans with {like.modality.upper()}; check its "
        "segmentation."
    ]


def test_a_stop_ends_after_the_running_scan(tmp_path: Path) -> None:
    project = make_project(tmp_path, seeds=(0, 1, 2))
    run = predictor(project, plan(2))
    events = Events()
    result = engine.run(
        PredictJob(project=str(project.root), weights=run), events, lambda: bool(events.of(Preview))
    )
    assert result["stopped"]
    assert result["scans"] == list(project.scans)[:1]


def test_a_pre_training_cannot_predict(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    run = predictor(project, plan(2), kind="pretrain")
    with pytest.raises(UserError, match="pre-training") as caught:
        engine.run(PredictJob(project=str(project.root), weights=run), Events(), never)
    assert caught.value.code == "not-finetuned"


@pytest.mark.parametrize("axis", [0, 2])
def test_five_slices_of_one_scan_are_enough_for_a_trivial_structure_in_another(
    tmp_path: Path, axis: int
) -> None:
    project = make_project(tmp_path, axis=axis, shape=(24, 32, 32) if axis == 0 else (32, 32, 24))
    settings = {**FINETUNE, "batch": 4, "learning_rate": 8e-3}
    other = list(project.scans)[1]
    job = FinetuneJob(project=str(project.root), steps=100, settings=settings, predict_scans=(other,))
    result = engine.run(job, Events(), never)
    labels = project.prediction(result["run"], other)
    assert labels is not None
    assert project.annotation(other) is None
    assert dice(labels, block_phantom(1, labels.shape)[1]) > 0.9  # type: ignore[arg-type]
