"""Curves in TensorBoard: those that the events have, and no training that fails or waits for them."""

from __future__ import annotations

import errno
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from medssl.core.events import Done, Metric, Notice, Started
from medssl.core.project.project import Project
from medssl.tasks.training import report, tensorboard
from small import SHAPE, Events, job_of, make_project, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A small project; trainings report each step, for TensorBoard in the folder "curves"."""
    monkeypatch.setenv(tensorboard.FOLDER, str(tmp_path / "curves"))
    monkeypatch.setattr(report, "REPORT_EVERY_S", -1.0)
    return make_project(tmp_path, shape=SHAPE)


def curves_in(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of each curve, as TensorBoard reads them."""
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return {
        name: [(each.step, each.value) for each in accumulator.Scalars(name)]
        for name in accumulator.Tags()["scalars"]
    }


def said(events: Events) -> list[str]:
    return [event.text for event in events.of(Notice) if "TensorBoard" in event.text]


def expected(*trainings: Events) -> dict[str, list[tuple[int, Any]]]:
    """The curves that events have."""
    curves: dict[str, list[tuple[int, Any]]] = {}
    for event in (event for training in trainings for event in training.of(Metric)):
        for name, value in event.values.items():
            curves.setdefault(name, []).append((event.step, pytest.approx(value, rel=1e-6)))
    return curves


@pytest.mark.parametrize("kind", ["finetune", "pgl"])
def test_the_curves_are_those_of_the_events_also_of_a_resumed_run(project: Project, kind: str) -> None:
    first, second = Events(), Events()
    done = run(job_of(kind, project, steps=3), first)
    run(job_of(kind, project, steps=6, resume=done["run"]), second)
    curves = curves_in(project.root.parent / "curves" / "project" / done["run"])
    assert curves == expected(first, second)
    assert [step for step, _ in curves["loss"]] == [1, 2, 3, 4, 5, 6]
    assert not said(first) and not said(second)


def test_without_the_variable_nothing_is_written(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tensorboard.FOLDER, "")
    run(job_of("finetune", project, steps=2))
    assert not (project.root.parent / "curves").exists()


def refuse(project: Project) -> tuple[Events, list[str]]:
    """A training whose curves cannot be written: it ends as if nobody had asked for them."""
    events = Events()
    result = run(job_of("finetune", project, steps=3), events)
    assert isinstance(events[-1], Done) and result["step"] == 3
    assert project.run(result["run"]).checkpoint.exists()
    return events, said(events)


def test_without_tensorboard_the_command_that_installs_it_is_told_once(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard")
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    _, (text,) = refuse(project)
    assert 'pip install "napari-medssl[tensorboard]"' in text


def test_a_folder_that_cannot_be_is_told_once(project: Project) -> None:
    (project.root.parent / "curves").touch()
    _, (text,) = refuse(project)
    assert str(project.root.parent / "curves") in text


def test_what_has_failed_at_once_is_told_after_the_start(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.root.parent / "curves").touch()
    plain = tensorboard._Writer.start

    def start_and_end(writer: threading.Thread) -> None:
        plain(writer)  # type: ignore[arg-type]
        writer.join(60)

    monkeypatch.setattr(tensorboard._Writer, "start", start_and_end)
    events, (text,) = refuse(project)
    assert isinstance(events[0], Started) and text


def test_the_home_of_nobody_is_told_once(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tensorboard.FOLDER, "~nobody-of-that-name/curves")
    _, (text,) = refuse(project)
    assert "~nobody-of-that-name/curves" in text


def test_a_disk_that_fails_on_the_way_is_told_once(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(SummaryWriter, "add_scalar", fail)
    _, (text,) = refuse(project)
    assert "No space left" in text


def test_a_disk_that_does_not_answer_holds_no_training_up(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()
    monkeypatch.setattr(SummaryWriter, "add_scalar", lambda *_: answered.wait())
    monkeypatch.setattr(tensorboard, "LEAVE_S", 0.1)
    events, texts = refuse(project)
    answered.set()
    assert len(events.of(Metric)) == 3 and not texts
