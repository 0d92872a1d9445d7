"""What the planner chooses for which scans, and that it says why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from medssl import engine
from medssl.core.errors import UserError
from medssl.core.io.geometry import AXIS_NAMES
from medssl.core.jobs import Plan
from medssl.core.project.project import LabelClass, Project
from medssl.nn import devices
from medssl.nn.models import checkpoint
from medssl.tasks.plan import overrides, planner, step_times
from small import CPU, Events, Shape, Spacing, job_of, make_project, never, plan, write_nifti

FP32 = {"precision": "fp32"}


def project_of(folder: Path, *scans: tuple[Shape, Spacing]) -> Project:
    project = Project.create(folder / "project", (LabelClass(1, "block", "#ff0000"),))
    for number, (shape, spacing) in enumerate(scans):
        image = np.random.default_rng(number).normal(size=shape).astype(np.float32)
        project.add_scan(write_nifti(folder / f"{number}.nii", image, spacing))
    return project


def chosen(project: Project, **settings: Any) -> tuple[Plan, str]:
    plan, reasons = planner.choose(project, list(project.scans), CPU, {**FP32, **settings})
    return plan, "; ".join(reasons)


def test_no_scans_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        chosen(Project.create(tmp_path / "project"))
    assert caught.value.code == "no-scans"


def test_the_choice_is_2_5d_on_isolated_slices_and_says_why(tmp_path: Path) -> None:
    plan, reasons = chosen(make_project(tmp_path))
    assert plan.dims == 2
    assert plan.patch_vox[0] == 3
    assert "2.5D, because only 5 of 24 slices" in reasons


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_lie_as_they_were_painted(tmp_path: Path, axis: int) -> None:
    plan, reasons = chosen(make_project(tmp_path, axis=axis, shape=(24, 28, 32)))
    assert plan.slice_axis == axis
    assert AXIS_NAMES[axis] in reasons
    rows, columns = (length for other, length in enumerate((24, 28, 32)) if other != axis)
    assert plan.patch_vox == (3, -(-rows // 8) * 8, -(-columns // 8) * 8)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_without_annotation_slices_lie_across_the_coarsest_axis(tmp_path: Path, axis: int) -> None:
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 4.0
    plan, _ = chosen(project_of(tmp_path, ((20, 20, 20), tuple(spacing))))  # type: ignore[arg-type]
    assert plan.slice_axis == axis
    assert plan.spacing_mm == (0, 1, 1)


def test_2_5d_works_on_the_median_spacing_of_the_plane_and_never_resamples_across(tmp_path: Path) -> None:
    scans = [
        ((10, 30, 30), (5.0, 0.5, 0.5)),
        ((10, 40, 40), (3.0, 0.8, 0.8)),
        ((10, 50, 50), (9.0, 1.1, 1.1)),
    ]
    plan, _ = chosen(project_of(tmp_path, *scans))
    assert plan.spacing_mm == pytest.approx((0, 0.8, 0.8))
    assert plan.patch_vox == (3, 40, 40)


def test_3d_halves_thick_slices_later_than_the_plane(tmp_path: Path) -> None:
    plan, _ = chosen(project_of(tmp_path, ((12, 60, 60), (4.0, 1.0, 1.0))), dims=3)
    assert plan.strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2))
    assert plan.spacing_mm == (4, 1, 1)
    total = np.prod(plan.strides, axis=0)
    assert all(
        length % step == 0 and length >= 2 * step for length, step in zip(plan.patch_vox, total, strict=True)
    )


def test_3d_keeps_patient_order_whatever_was_painted(tmp_path: Path) -> None:
    plan, reasons = chosen(make_project(tmp_path, axis=2), dims=3)
    assert (plan.dims, plan.slice_axis) == (3, 0)
    assert "3D, as requested" in reasons
    assert "sagittal" not in reasons


@pytest.mark.parametrize("shape", [(3, 5, 5), (12, 9, 200), (300, 400, 30)])
@pytest.mark.parametrize("dims", [2, 3])
def test_patches_are_whole_cells_and_at_least_two_for_every_scan(
    tmp_path: Path, shape: Shape, dims: int
) -> None:
    plan, _ = chosen(project_of(tmp_path, (shape, (1.0, 1.0, 1.0))), dims=dims)
    total = np.prod(plan.strides, axis=0)
    for length, step in zip(plan.patch_vox[3 - dims :], total, strict=True):
        assert length % step == 0
        assert 2 * step <= length <= 96
    assert plan.batch >= 2


def test_settings_override_and_the_reasons_say_so(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    plan, reasons = chosen(project, slice_axis=1, batch=3, threads=1, context=5, dims=2)
    assert (plan.slice_axis, plan.batch, plan.threads, plan.patch_vox[0]) == (1, 3, 1, 5)
    assert "coronal slices, as requested" in reasons
    assert "because only" not in reasons
    assert "have this orientation" not in reasons


@pytest.mark.parametrize(
    ("dims", "asked", "given"),
    [(2, [3, 16, 24], (3, 16, 24)), (2, [1, 17, 3], (1, 24, 16)), (3, [17, 16, 3], (24, 16, 16))],
)
def test_an_asked_patch_is_rounded_up_to_whole_cells(
    tmp_path: Path, dims: int, asked: list[int], given: tuple[int, ...]
) -> None:
    plan, _ = chosen(project_of(tmp_path, ((20, 30, 30), (1.0, 1.0, 1.0))), dims=dims, patch=asked)
    assert plan.patch_vox == given


@pytest.mark.parametrize(
    "settings",
    [
        {"dims": 4},
        {"slice_axis": 3},
        {"precision": "fp16"},
        {"batch": 0},
        {"batch": "many"},
        {"batch": 1.5},
        {"threads": 0},
        {"context": 4},
        {"context": 0},
        {"patch": [3, 16]},
        {"patch": "large"},
        {"patch": [2, 16, 16]},
    ],
    ids=str,
)
def test_an_override_that_makes_no_sense_is_one_sentence(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        chosen(make_project(tmp_path), **settings)
    assert caught.value.code == "bad-job"
    assert next(iter(settings)) in str(caught.value)


def test_bf16_is_not_taken_where_it_would_be_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "fast_bf16", lambda device: False)
    assert overrides.adapt(plan(), CPU, {"precision": "bf16"}).precision == "fp32"
    monkeypatch.setattr(devices, "fast_bf16", lambda device: True)
    assert overrides.adapt(plan(), CPU, {"precision": "bf16"}).precision == "bf16"


@pytest.mark.parametrize(("fast", "taken"), [(True, "bf16"), (False, "fp32")])
def test_precision_follows_from_what_the_device_has_instructions_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: bool, taken: str
) -> None:
    monkeypatch.setattr(devices, "fast_bf16", lambda device: fast)
    project = make_project(tmp_path)
    plan, reasons = planner.choose(project, list(project.scans), CPU, {})
    assert plan.precision == taken
    assert any(each.startswith(taken) for each in reasons)


def test_one_thread_is_taken_where_more_are_slower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "fast_bf16", lambda device: False)
    monkeypatch.setattr(devices, "THREADS", 2)
    monkeypatch.setattr(step_times, "seconds_per_step", lambda plan, device, **_: 1.0 * plan.threads)
    project = make_project(tmp_path)
    plan, reasons = planner.choose(project, list(project.scans), CPU, {})
    assert plan.threads == 1
    assert any(each.startswith("1 thread, by measured step time") for each in reasons)


def test_what_was_measured_in_a_project_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "THREADS", 2)
    monkeypatch.setattr(step_times, "seconds_per_step", lambda plan, device, **_: 1.0 * plan.threads)
    project = make_project(tmp_path)
    first, _ = planner.choose(project, list(project.scans), CPU, {})
    monkeypatch.setattr(step_times, "seconds_per_step", lambda plan, device, **_: 1.0 / plan.threads)
    again, reasons = planner.choose(project, list(project.scans), CPU, {})
    assert again == first
    assert "1 thread, measured earlier on this machine" in reasons
    other, _ = planner.choose(project, list(project.scans), CPU, {"batch": 3})
    assert other.threads == 2  # another kind of step
    step_times.file_of(project.root).write_text("[3")
    damaged, _ = planner.choose(project, list(project.scans), CPU, {})
    assert damaged.threads == 2


def test_timing_a_step_gives_seconds_and_leaves_the_generators_alone() -> None:
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    assert 0 < step_times.seconds_per_step(plan(), CPU, repeats=1) < 60
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("took", "steps"), [(0.01, 6), (0.15, 4), (0.5, 3)])
def test_a_slow_step_is_timed_less_often(monkeypatch: pytest.MonkeyPatch, took: float, steps: int) -> None:
    clock = iter(took * tick for step in range(20) for tick in (step, step + 1))
    calls: list[float] = []
    monkeypatch.setattr(step_times.time, "perf_counter", lambda: calls.append(1) or next(clock))
    assert step_times.seconds_per_step(plan(), CPU) == pytest.approx(took)
    assert len(calls) == 2 * steps


def test_a_mode_whose_first_step_is_hopeless_is_not_timed_further(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 3.0])
    monkeypatch.setattr(step_times.time, "perf_counter", lambda: next(clock))
    assert step_times.seconds_per_step(plan(), CPU, hopeless_s=2.0) == 3.0


@pytest.mark.parametrize("kind", ["pgl", "finetune"])
def test_the_same_job_twice_gives_the_same_weights_whatever_the_stopwatch_says(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the seed is asked for: precision and threads are the planner's choice, both times."""
    monkeypatch.setattr(devices, "THREADS", 2)
    project = make_project(tmp_path, shape=(12, 24, 24))
    small = {"batch": 2, "hidden": 16, "dimension": 8} if kind == "pgl" else {"batch": 2}
    made = []
    for power in (1, -1):  # first one thread is the fastest, then two
        monkeypatch.setattr(
            step_times,
            "seconds_per_step",
            lambda plan, device, power=power, **_: float(plan.threads) ** power,
        )
        run = engine.run(replace(job_of(kind, project, steps=4), settings=small), Events(), never)["run"]
        made.append(checkpoint.load(project.run(run).checkpoint))
    (first, card), (second, other) = made
    assert card["plan"] == other["plan"]
    assert card["plan"]["threads"] == 1
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
