"""The step loop with a task of one small layer: budgets, stopping, resuming, and what may go wrong."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from medssl.core.errors import UserError
from medssl.core.events import Checkpoint, Metric, Notice, Progress
from medssl.nn import devices
from medssl.nn.models import checkpoint
from medssl.tasks.training import loop, report
from medssl.tasks.training.loop import train
from medssl.tasks.training.loop_settings import Budget, LoopSettings
from medssl.tasks.training.optimizer import make_optimizer, schedule
from medssl.tasks.training.state import Position
from small import Events, never, seeded
from torch import Generator, Tensor, nn


class Fitting:
    """Fits a linear layer to numbers drawn by the generator."""

    def __init__(self, batch: int = 8) -> None:
        torch.manual_seed(0)
        self.modules = nn.ModuleDict({"network": nn.Linear(4, 2)})
        self.extra_state = {"besides": torch.ones(1)}
        self.batch = batch
        self.fractions: list[float] = []
        self.rates: list[float] = []

    def parameter_groups(self) -> list[dict[str, Any]]:
        network = self.modules["network"]
        return [{"params": [network.weight]}, {"params": [network.bias], "rate": 0.1}]

    stages: tuple[float, ...] = (0.0,)

    def loss(self, generator: Generator, fraction: float) -> tuple[Tensor, dict[str, Tensor]]:
        self.fractions.append(fraction)
        image = torch.randn(self.batch, 4, generator=generator)
        loss = (self.modules["network"](image) - image[:, :2]).square().mean()
        return loss, {"twice": 2 * loss.detach()}

    def after_step(self, fraction: float) -> None:
        pass

    def shrink(self) -> str | None:
        if self.batch < 2:
            return None
        self.batch //= 2
        return f"Now {self.batch}."


def failing(task: Fitting, error: BaseException | None, times: int) -> Fitting:
    """Make the task's first `times` steps fail with `error`, or (None) have a loss that is no number."""
    plain = task.loss
    left = [times]

    def loss(generator: Generator, fraction: float) -> tuple[Tensor, dict[str, Tensor]]:
        value, numbers = plain(generator, fraction)
        if left[0]:
            left[0] -= 1
            if error is not None:
                raise error
            return value * math.nan, numbers
        return value, numbers

    task.loss = loss  # type: ignore[method-assign]
    return task


def fit(
    folder: Path,
    task: Fitting,
    budget: Budget,
    events: Events | None = None,
    should_stop: Callable[[], bool] = never,
    settings: LoopSettings | None = None,
    resume: tuple[dict[str, Tensor], dict[str, Any]] | None = None,
    on_end: Callable[[int], dict[str, Any]] | None = None,
) -> tuple[Position, bool]:
    tensors, card = resume or (None, {"kind": "pretrain"})
    return train(
        task,
        settings or LoopSettings(learning_rate=0.1),
        budget,
        seeded(),
        folder / "checkpoint.safetensors",
        card,
        events if events is not None else Events(),
        should_stop,
        "fitting",
        tensors,
        on_end=on_end,
    )


def weights(task: Fitting) -> Tensor:
    return torch.cat([each.detach().flatten() for each in task.modules.parameters()])


def stop_after(steps: int) -> Callable[[], bool]:
    asked = iter(range(steps + 1))
    return lambda: next(asked) == steps


def test_training_takes_as_many_steps_as_the_budget_says(tmp_path: Path) -> None:
    task = Fitting()
    position, stopped = fit(tmp_path, task, Budget(steps=7))
    assert (position.step, stopped) == (7, False)
    assert task.fractions == [step / 7 for step in range(7)]


def test_what_is_kept_besides_the_weights_is_in_the_checkpoint(tmp_path: Path) -> None:
    task = Fitting()
    fit(tmp_path, task, Budget(steps=1))
    assert torch.equal(
        checkpoint.load(tmp_path / "checkpoint.safetensors")[0]["besides"], task.extra_state["besides"]
    )


def test_training_brings_the_loss_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "REPORT_EVERY_S", 0)
    events = Events()
    fit(tmp_path, Fitting(), Budget(steps=60), events)
    losses = [metric.values["loss"] for metric in events.of(Metric)]
    assert losses[-1] < 0.2 * losses[0]


def test_training_ends_with_its_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(clock)))
    position, _ = fit(tmp_path, Fitting(), Budget(minutes=1), settings=LoopSettings(checkpoint_every_s=1e9))
    assert 60 <= position.elapsed_s < 70
    assert 5 < position.step < 60


@pytest.mark.parametrize("budget", [Budget(steps=0), Budget(minutes=0), Budget(steps=0, minutes=5)])
def test_a_budget_of_nothing_leaves_a_checkpoint_of_the_weights_as_they_are(
    tmp_path: Path, budget: Budget
) -> None:
    task = Fitting()
    before = weights(task)
    position, _ = fit(tmp_path, task, budget)
    assert position.step == 0
    assert torch.equal(weights(task), before)
    assert checkpoint.load(tmp_path / "checkpoint.safetensors")[1]["step"] == 0


def test_the_fraction_is_that_of_what_ends_first() -> None:
    both = Budget(steps=10, minutes=1)
    assert both.fraction(5, 6) == 0.5
    assert both.fraction(1, 54) == pytest.approx(0.9)
    assert both.fraction(20, 0) == 1
    assert Budget().fraction(1000, 1e6) == 0


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [schedule(step / 100, 0.1) for step in range(101)]
    assert rates.index(max(rates)) == 10
    assert max(rates) == pytest.approx(1)
    assert rates[0] > 0
    assert rates[-1] == pytest.approx(0, abs=1e-9)


def test_the_learning_rate_rises_and_falls_in_each_stage() -> None:
    task, settings = Fitting(), LoopSettings(learning_rate=0.1, warmup=0.1)
    task.stages = (0.0, 0.5)
    optimizer, rates = make_optimizer(task.modules, task.parameter_groups(), settings.learning_rate, 0.0), []
    for percent in range(100):
        loop.step(task, optimizer, settings, seeded(), percent / 100)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[:50] == pytest.approx(rates[50:])
    assert rates.index(max(rates)) == 5
    assert max(rates) == pytest.approx(0.1)
    assert rates[50] < 0.01 > rates[49]


def test_groups_have_rates_of_their_own(tmp_path: Path) -> None:
    moved = {}
    for steps in (0, 1):
        task = Fitting()
        fit(
            tmp_path,
            task,
            Budget(steps=steps),
            settings=LoopSettings(learning_rate=0.1, warmup=0, weight_decay=0),
        )
        moved[steps] = [each.detach().clone() for each in task.modules.parameters()]
    weight, bias = ((moved[1][which] - moved[0][which]).abs().max().item() for which in (0, 1))
    # The first step of Adam is as long as the learning rate.
    assert weight == pytest.approx(0.1, rel=0.01)
    assert bias == pytest.approx(0.01, rel=0.01)


def test_a_stop_ends_after_the_running_step_with_a_checkpoint(tmp_path: Path) -> None:
    events = Events()
    position, stopped = fit(tmp_path, Fitting(), Budget(steps=50), events, should_stop=stop_after(3))
    assert (position.step, stopped) == (3, True)
    assert events.of(Checkpoint)[-1].step == 3
    assert checkpoint.load(tmp_path / "checkpoint.safetensors")[1]["step"] == 3


def test_a_stopped_and_resumed_training_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    whole, first, second = Fitting(), Fitting(), Fitting()
    fit(tmp_path, whole, Budget(steps=20))
    fit(tmp_path, first, Budget(steps=20), should_stop=stop_after(8))
    events = Events()
    stored = checkpoint.load(tmp_path / "checkpoint.safetensors")
    position, _ = fit(tmp_path, second, Budget(steps=20), events, resume=stored)
    assert position.step == 20
    assert torch.equal(weights(second), weights(whole))
    assert not torch.equal(weights(first), weights(whole))
    assert "step 8" in events.of(Notice)[0].text


def test_a_resumed_training_that_was_done_stays_as_it_is(tmp_path: Path) -> None:
    first, again = Fitting(), Fitting()
    fit(tmp_path, first, Budget(steps=5))
    position, stopped = fit(
        tmp_path, again, Budget(steps=5), resume=checkpoint.load(tmp_path / "checkpoint.safetensors")
    )
    assert (position.step, stopped) == (5, False)
    assert torch.equal(weights(first), weights(again))


def test_checkpoints_come_as_often_as_asked(tmp_path: Path) -> None:
    events = Events()
    fit(tmp_path, Fitting(), Budget(steps=5), events, settings=LoopSettings(checkpoint_every_s=0))
    assert [event.step for event in events.of(Checkpoint)] == [0, 1, 2, 3, 4, 5, 5]


def test_numbers_are_means_since_the_last_report(tmp_path: Path) -> None:
    events = Events()
    fit(tmp_path, Fitting(), Budget(steps=5), events, settings=LoopSettings(learning_rate=0))
    reports = events.of(Metric)
    assert reports[-1].step == 5
    assert all(each.values["twice"] == pytest.approx(2 * each.values["loss"]) for each in reports)
    assert events.of(Progress)[-1].fraction == 1
    assert events.of(Progress)[-1].eta_s == pytest.approx(0)


def test_a_number_that_only_some_steps_have_is_the_mean_over_those(tmp_path: Path) -> None:
    task, events = Fitting(), Events()
    plain = task.loss
    task.loss = lambda generator, fraction: (  # type: ignore[method-assign]
        plain(generator, fraction)[0],
        {"late": torch.tensor(3.0)} if fraction > 0.7 else {},
    )
    fit(tmp_path, task, Budget(steps=10), events)
    assert [each.values["late"] for each in events.of(Metric) if "late" in each.values] == [3.0]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=["cuda", "python", "cpu", "mps", "cublas"],
)
def test_short_memory_halves_the_batch_and_goes_on_with_a_notice(
    tmp_path: Path, error: BaseException
) -> None:
    events = Events()
    task = failing(Fitting(batch=8), error, times=2)
    position, _ = fit(tmp_path, task, Budget(steps=4), events)
    assert task.batch == 2
    assert [notice.text for notice in events.of(Notice)] == ["Now 4.", "Now 2."]
    assert position.step == 4


def test_what_torch_says_when_the_cpu_has_no_memory_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert devices.out_of_memory(caught.value)
    assert not devices.out_of_memory(RuntimeError("The size of tensor a must match"))


def test_memory_that_is_short_for_the_smallest_step_is_one_sentence(tmp_path: Path) -> None:
    task = failing(Fitting(batch=4), torch.OutOfMemoryError("no"), times=9)
    with pytest.raises(UserError) as caught:
        fit(tmp_path, task, Budget(steps=4))
    assert caught.value.code == "memory"


def test_other_errors_of_torch_are_not_taken_for_short_memory(tmp_path: Path) -> None:
    task = failing(Fitting(), RuntimeError("The size of tensor a must match"), times=1)
    with pytest.raises(RuntimeError, match="must match"):
        fit(tmp_path, task, Budget(steps=4))


def test_a_loss_that_is_no_number_is_one_sentence_and_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "REPORT_EVERY_S", 1e9)
    first = Fitting()
    fit(tmp_path, first, Budget(steps=3))
    stored, before = (checkpoint.load(tmp_path / "checkpoint.safetensors") for _ in range(2))
    task = failing(Fitting(), None, times=1)
    with pytest.raises(UserError, match="diverged") as caught:
        fit(tmp_path, task, Budget(steps=9), settings=LoopSettings(checkpoint_every_s=0), resume=stored)
    assert caught.value.code == "diverged"
    after, card = checkpoint.load(tmp_path / "checkpoint.safetensors")
    assert card["step"] == 3
    assert all(torch.equal(after[name], tensor) for name, tensor in before[0].items())


def test_a_gradient_that_is_no_number_is_noticed_before_the_weights_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "REPORT_EVERY_S", 1e9)
    task = Fitting()
    task.modules["network"].weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(UserError, match="diverged"):
        fit(tmp_path, task, Budget(steps=9), settings=LoopSettings(checkpoint_every_s=0))
    extra_state, card = checkpoint.load(tmp_path / "checkpoint.safetensors")
    assert card["step"] == 0
    assert extra_state["modules.network.weight"].isfinite().all()


def test_a_full_disk_is_one_sentence_and_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    fit(tmp_path, Fitting(), Budget(steps=3))
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"disk is full") as caught:
        fit(tmp_path, Fitting(), Budget(steps=6), resume=checkpoint.load(path))
    assert caught.value.code == "disk-full"
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["card.json", path.name]


def test_long_gradients_are_cut(tmp_path: Path) -> None:
    """Two losses that differ by a factor take the same plain gradient step once both are cut."""
    seen = []
    for factor in (1e4, 1e6):
        task = Fitting()
        plain = task.loss
        task.loss = lambda *given, plain=plain, factor=factor: (factor * plain(*given)[0], {})  # type: ignore
        fit(tmp_path, task, Budget(steps=1), settings=LoopSettings(clip=0.5))
        stored, _ = checkpoint.load(tmp_path / "checkpoint.safetensors")
        seen.append(stored["optimizer.0.exp_avg"])
    assert torch.allclose(seen[0], seen[1], rtol=1e-3)
    assert seen[0].norm() <= 0.1 * 0.5 + 1e-6


def test_weights_that_no_gradient_holds_decay() -> None:
    task = Fitting()
    weight = task.modules["network"].weight
    before = weight.detach().clone()
    settings = LoopSettings(learning_rate=0.5)
    optimizer = make_optimizer(
        task.modules, task.parameter_groups(), settings.learning_rate, settings.weight_decay
    )
    (0 * weight.sum()).backward()
    optimizer.step()
    assert torch.allclose(weight, (1 - 0.5 * 3e-2) * before)
