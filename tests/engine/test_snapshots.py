"""Weights kept on the way through a training, with the step loop's task of one small layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from medssl.core.errors import UserError
from medssl.nn.models import checkpoint
from medssl.tasks.segment.pseudo_labels import Settings as SelfTraining
from medssl.tasks.training import loop
from medssl.tasks.training.loop import train
from medssl.tasks.training.loop_settings import Budget, LoopSettings, settings_for
from medssl.tasks.training.snapshots import snapshot_file
from small import Events, never, plan, seeded
from test_loop import Fitting, fit, stop_after, weights


class Clock:
    """Every step of the task takes a second, whatever `wait` is told besides."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, task: Fitting) -> None:
        self.now = 0.0
        monkeypatch.setattr(loop.time, "monotonic", lambda: self.now)
        plain = task.after_step

        def after_step(fraction: float) -> None:
            self.wait(1.0)
            plain(fraction)

        task.after_step = after_step  # type: ignore[method-assign]

    def wait(self, seconds: float) -> None:
        self.now += seconds


def snapshots_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("snapshot-*"))


def test_weights_are_kept_on_the_way_and_the_training_loses_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, plain = Fitting(), Fitting()
    fit(tmp_path, plain, Budget(steps=9))
    clock = Clock(monkeypatch, task)
    before = weights(task)

    def on_end(step: int) -> dict[str, Any]:
        clock.wait(100.0)
        return {"width": step}

    marks = LoopSettings(learning_rate=0.1, snapshots_s=(0, 4, 6.5, 9))
    position, _ = fit(tmp_path, task, Budget(steps=9, minutes=1), settings=marks, on_end=on_end)
    assert (position.step, position.elapsed_s) == (9, 9.0)
    assert torch.equal(weights(task), weights(plain))
    assert snapshots_in(tmp_path) == [f"snapshot-{each}.safetensors" for each in ("0", "4", "6.5", "9")]
    for mark, step in ((0, 0), (4, 4), (6.5, 7), (9, 9)):
        tensors, card = checkpoint.load(snapshot_file(tmp_path / "checkpoint.safetensors", mark))
        expected = {"format": 1, "kind": "pretrain", "step": step, "elapsed_s": step, "width": step}
        assert card == {**expected, "run": tmp_path.name}
        assert {name.partition(".")[0] for name in tensors} == {"modules", "besides"}
        extra_state = Fitting()
        extra_state.modules.load_state_dict(checkpoint.unpack("modules", tensors))
        assert torch.equal(weights(extra_state), before) == (mark == 0)
        assert torch.equal(weights(extra_state), weights(task)) == (mark == 9)
    assert checkpoint.load(tmp_path / "checkpoint.safetensors")[1]["step"] == 9


def test_time_that_went_into_preparation_passes_marks_before_the_first_step(tmp_path: Path) -> None:
    marks = LoopSettings(snapshots_s=(0, 20, 60))
    path = tmp_path / "checkpoint.safetensors"
    train(
        Fitting(), marks, Budget(steps=2), seeded(), path, {}, Events(), never, "fitting", spent_s=30.0
    )  # fmt: skip
    assert snapshots_in(tmp_path) == ["snapshot-0.safetensors", "snapshot-20.safetensors"]
    assert checkpoint.load(snapshot_file(path, 20))[1]["step"] == 0


def test_a_resumed_training_keeps_no_snapshot_twice_and_makes_up_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = LoopSettings(snapshots_s=(0, 2, 4, 6))
    path = tmp_path / "checkpoint.safetensors"
    first = Fitting()
    Clock(monkeypatch, first)
    fit(tmp_path, first, Budget(steps=8), should_stop=stop_after(3), settings=marks)
    snapshot_file(path, 0).unlink()  # passed long ago: what there is now would be a lie
    snapshot_file(path, 4).write_bytes(b"of steps that a crash took back")
    again = Fitting()
    Clock(monkeypatch, again)
    fit(tmp_path, again, Budget(steps=8), settings=marks, resume=checkpoint.load(path))
    assert snapshots_in(tmp_path) == [f"snapshot-{each}.safetensors" for each in (2, 4, 6)]
    assert checkpoint.load(snapshot_file(path, 2))[1]["step"] == 2
    assert snapshot_file(path, 4).read_bytes().startswith(b"of steps")
    assert checkpoint.load(snapshot_file(path, 6))[1]["step"] == 6


def test_a_jobs_settings_say_when_snapshots_are_kept() -> None:
    settings, _ = settings_for("finetune-quick", {"snapshots_s": [0, 20, 60]}, SelfTraining, plan())
    assert settings.snapshots_s == (0, 20, 60)
    with pytest.raises(UserError, match="snapshots_s"):
        settings_for("finetune-quick", {"snapshots_s": 20}, SelfTraining, plan())
