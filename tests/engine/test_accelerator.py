"""On a GPU: the same losses, labels and features as on a CPU, and every job to its end. Needs CUDA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from medssl.core.events import Metric
from medssl.core.jobs import FeaturesJob, FinetuneJob, Plan, PredictJob, PretrainJob, SuggestJob
from medssl.core.methods import METHODS
from medssl.core.project.project import Project
from medssl.nn.data import augment
from medssl.nn.methods.shapes import Shapes, ShapesSettings
from medssl.nn.models.cuda_graphs import record_passes
from medssl.nn.models.unet import build
from medssl.tasks.inference.predict import segment
from medssl.tasks.plan import planner
from medssl.tasks.pretrain import pretrain
from medssl.tasks.segment import finetune
from medssl.tasks.training.loop import step
from small import CPU, SHAPE, Events, dice, job_of, make_project, run, seeded
from torch import Tensor

CUDA = torch.device("cuda")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
KINDS = (*METHODS, "finetune", "finetune-none", "finetune-3d", "finetune-pseudo_contrast", "finetune-both")
ROUNDING = 0.02
"""Scans are float16 on a GPU, and cuDNN multiplies in tf32."""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path, (0, 1, 2, 3), shape=SHAPE)


@pytest.fixture
def same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise is drawn where the images are; to compare devices it comes from the CPU for both."""

    def normal(shape: Sequence[int], generator: torch.Generator, device: torch.device) -> Tensor:
        return torch.randn(tuple(shape), generator=generator).to(device)

    monkeypatch.setattr(augment, "normal", normal)


def task_on(device: torch.device, project: Project, kind: str, **settings: Any) -> tuple[Any, Any]:
    """Loop settings and task of a small training, everything drawn by its seed."""
    job = job_of(kind, project)
    job = replace(job, settings={**job.settings, **settings})
    plan, _ = planner.choose(project, list(project.scans), CPU, job.settings)
    if isinstance(job, PretrainJob):
        loop, task = pretrain.make_task(project, list(project.scans), job, plan, device, None, Events())
        task.method.prepare(task.dataset, Events())
        return loop, task
    assert isinstance(job, FinetuneJob)
    return finetune.make_task(project, job, plan, device, Events())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "alice"])  # its matcher trains first
@pytest.mark.usefixtures("same_noise")
def test_the_first_steps_lose_the_same(project: Project, kind: str) -> None:
    losses = []
    for device in (CPU, CUDA):
        loop, task = task_on(device, project, kind, learning_rate=1e-4)
        optimizer = torch.optim.AdamW(task.parameter_groups(), lr=1e-4)
        generator = seeded(1)
        losses.append([step(task, optimizer, loop, generator, 0.1)[0].item() for _ in range(2)])
    assert losses[1] == pytest.approx(losses[0], rel=ROUNDING)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "alice"])
def test_recorded_passes_lose_the_same(project: Project, kind: str) -> None:
    losses = []
    for graphs in (False, True):
        loop, task = task_on(CUDA, project, kind, learning_rate=1e-4)
        optimizer = torch.optim.AdamW(task.parameter_groups(), lr=1e-4)
        if graphs:
            record_passes(task.modules, optimizer)
        generator = seeded(1)
        losses.append([step(task, optimizer, loop, generator, 0.1)[0].item() for _ in range(4)])
    assert losses[1] == pytest.approx(losses[0], rel=ROUNDING)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_runs_to_its_end(project: Project, kind: str, precision: str) -> None:
    job = job_of(kind, project, device="cuda")
    job = replace(job, settings={**job.settings, "precision": precision})
    if isinstance(job, FinetuneJob):
        job = replace(job, predict_scans=tuple(project.scans))
    events = Events()
    result = run(job, events)
    assert result["step"] == 10
    losses = [each.values["loss"] for each in events.of(Metric) if "loss" in each.values]
    assert losses
    assert np.isfinite(losses).all()
    assert project.run(result["run"]).card["plan"]["precision"] == precision


@pytest.mark.parametrize("dims", [2, 3])
def test_labels_are_those_of_the_cpu(dims: int) -> None:
    shape = {2: (3, 32, 32), 3: (8, 32, 32)}[dims]
    strides = ((1,) * dims, (2,) * dims, (2,) * dims)
    plan = Plan(dims, 0, (1.0,) * 3, shape, 2, (8, 16, 16), strides, multiplanar=True)  # type: ignore[arg-type]
    network = build(plan, 3, seed=4).eval()
    image = np.random.default_rng(0).normal(size=(20, 40, 36)).astype(np.float32)
    one, _ = segment(network, plan, [image], (1.0, 1.0, 1.0), CPU)
    two, _ = segment(network.to(CUDA), plan, [image], (1.0, 1.0, 1.0), CUDA)
    assert np.unique(one).size > 1
    assert np.mean(one == two) > 0.98


def test_what_a_gpu_learned_a_cpu_uses_and_goes_on_with(project: Project) -> None:
    scans = tuple(project.scans)
    pretrained = run(job_of("pgl", project, device="cuda"))["run"]
    job = job_of("finetune", project, device="cuda", weights=pretrained, predict_scans=scans, steps=60)
    learned = run(replace(job, settings={**job.settings, "batch": 8}))["run"]
    there = {scan: project.prediction(learned, scan) for scan in scans}
    run(PredictJob(str(project.root), device="cpu", weights=learned, scans=scans, probabilities=True))
    for scan, labels in there.items():
        here = project.prediction(learned, scan)
        assert labels is not None
        assert here is not None
        assert dice(labels, here) > 0.9 or not labels.any()
    again = run(job_of("finetune", project, device="cpu", weights=learned))
    assert again["step"] == 10


@pytest.mark.parametrize("kind", ["pgl", "finetune"])
def test_features_and_suggestions_come_from_it(project: Project, kind: str) -> None:
    weights = run(job_of(kind, project, device="cuda"))["run"]
    run(FeaturesJob(str(project.root), device="cuda", weights=weights))
    suggested = run(SuggestJob(str(project.root), device="cuda", weights=weights, count=3))
    assert suggested["suggestions"]


@pytest.mark.usefixtures("same_noise")
def test_the_generator_decides_on_both_what_is_seen(project: Project) -> None:
    seen: list[Tensor] = []
    for device in (CPU, CUDA):
        _, task = task_on(device, project, "finetune-none")
        image, target = task.patches(*task.orientations[0], seeded(5))
        seen += [image.cpu(), target.cpu()]
    assert torch.allclose(seen[0], seen[2], atol=0.05)
    assert (seen[1] == seen[3]).float().mean() > 0.999


def test_synthetic_volumes_have_the_label_and_intensity_distribution_of_the_cpu() -> None:
    plan = Plan(2, 0, (0.0, 1.0, 1.0), (3, 32, 32), 4000, (8, 8, 8), ((1, 1), (2, 2), (2, 2)), threads=1)
    shapes = Shapes(build(plan, 3, 0), plan, ShapesSettings(sizes=(32,), hidden=16, dimension=8))
    means, shares = [], []
    for device in (CPU, CUDA):
        images, labels = shapes.pairs(seeded(0), device)
        assert images.device.type == labels.device.type == device.type
        assert images.isfinite().all()
        means.append((images.mean().item(), images.std().item()))
        shares.append(labels.flatten().bincount(minlength=30).cpu() / labels.numel())
    assert means[1] == pytest.approx(means[0], abs=0.1)
    assert torch.allclose(shares[0], shares[1], atol=0.02)
    again = shapes.pairs(seeded(0), CUDA)
    assert torch.equal(again[1], labels)


def test_pre_training_on_synthetic_volumes_resumes(tmp_path: Path) -> None:
    settings = {"precision": "bf16", "batch": 8, "sizes": [32], "hidden": 16, "dimension": 8}
    Project.create(tmp_path / "shapes")
    job = PretrainJob(str(tmp_path / "shapes"), method="shapes", device="cuda", steps=6, settings=settings)
    first = run(job)
    assert first["step"] == 6
    again = run(replace(job, steps=9, resume=first["run"]))
    assert again["step"] == 9
