"""Short memory: first the batch is halved, then the patch, one line says so, and the training goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from medssl.core.errors import UserError
from medssl.core.events import Notice
from medssl.core.jobs import Plan
from medssl.nn import devices
from medssl.tasks.plan import planner, step_times
from medssl.tasks.plan.patch_size import smaller
from medssl.tasks.training import loop
from small import CPU, SHAPE, Events, job_of, make_project, plan, run


def short(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The first steps fail for want of memory, after they have been taken."""
    left, plain = [times], loop.step

    def step(*given: Any) -> Any:
        done = plain(*given)
        if left[0]:
            left[0] -= 1
            raise RuntimeError("CUDA error: out of memory")
        return done

    monkeypatch.setattr(loop, "step", step)


def test_the_batch_is_halved_until_one_is_left_and_then_the_patch() -> None:
    found, seen = plan(batch=4, patch_vox=(3, 64, 40)), []
    while (smaller_one := smaller(found)) is not None:
        found = smaller_one
        seen.append((found.batch, found.patch_vox))
    assert seen == [(2, (3, 64, 40)), (1, (3, 64, 40)), (1, (3, 32, 20)), (1, (3, 16, 8)), (1, (3, 8, 8))]


def test_in_3d_all_sides_get_smaller_in_whole_cells() -> None:
    found = smaller(plan(3, batch=1, patch_vox=(8, 48, 20)))
    assert found is not None
    assert found.patch_vox == (4, 24, 8)


def test_methods_that_compare_views_keep_two() -> None:
    assert smaller(plan(batch=3, patch_vox=(3, 32, 32)), least_batch=2) == plan(
        batch=3, patch_vox=(3, 16, 16)
    )
    assert smaller(plan(batch=2, patch_vox=(3, 8, 8)), least_batch=2) is None


def test_the_plan_gets_smaller_where_a_step_that_is_timed_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(tried: Plan, device: object, **_: float) -> float:
        if tried.batch > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 0.1

    monkeypatch.setattr(step_times, "seconds_per_step", seconds)
    project = make_project(tmp_path)
    monkeypatch.setattr(devices, "THREADS", 2)
    plan, reasons = planner.choose(project, list(project.scans), CPU, {"batch": 16, "precision": "fp32"})
    assert plan.batch == 4
    assert "limited memory: 4 patches of" in "; ".join(reasons)


@pytest.mark.parametrize(
    "kind", ["finetune", "finetune-3d", "finetune-pseudo_contrast", "pgl", "simclr", "mae"]
)
def test_a_training_goes_on_with_smaller_patches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    project = make_project(tmp_path, seeds=(0, 1), shape=(24, 48, 48) if "3d" in kind else (12, 48, 48))
    short(monkeypatch, times=2)
    job = job_of(kind, project, steps=4)
    job = replace(
        job, settings={**job.settings, "batch": 2, "patch": [3 if "3d" not in kind else 24, 48, 48]}
    )
    events = Events()
    assert run(job, events)["step"] == 4
    said = [each.text for each in events.of(Notice) if "Out of memory" in each.text]
    assert len(said) == 2
    assert "24 x 24" in said[-1] or "16 x 16" in said[-1]


def test_where_nothing_can_get_smaller_it_is_one_sentence_and_the_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(tmp_path, seeds=(0, 1), shape=SHAPE)
    short(monkeypatch, times=99)
    with pytest.raises(UserError, match="smallest batch") as caught:
        run(job_of("finetune", project))
    assert caught.value.code == "memory"
    assert project.runs()[0].checkpoint.exists()
