"""kill -9 at any moment costs what came after the last checkpoint, and nothing else.

MEDSSL_KILLS=20 kills more often than the default.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from medssl import engine
from medssl.core.errors import UserError
from medssl.core.events import Checkpoint, Done, Event, Notice, Started, from_line
from medssl.core.jobs import FinetuneJob, write_job
from medssl.core.project.project import Project
from medssl.nn.models import checkpoint
from project_parts import code_of
from small import FINETUNE, Events, make_project, never

KILLS = int(os.environ.get("MEDSSL_KILLS", "2"))
LONGEST_S = 0.6
"""After its start a training is killed within so many seconds; they add up to less than it takes."""


def start(job: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "medssl", "run", str(job)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
    )


def killed(job: Path, after_s: float) -> list[Event]:
    """What a child said that was killed so long after its Started; all of it if it was done before."""
    child = start(job)
    assert child.stdout is not None
    first = child.stdout.readline()
    time.sleep(after_s)
    child.kill()
    rest, _ = child.communicate(timeout=60)
    lines = [first, *rest.splitlines(keepends=True)]
    return [from_line(line) for line in lines if line.endswith("\n")]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.timeout(120 + 60 * KILLS)
def test_killed_trainings_go_on_from_their_last_checkpoint(tmp_path: Path) -> None:
    """Killed again and again, a fine-tuning ends with the weights of one that nobody disturbed."""
    project = make_project(tmp_path, shape=(12, 24, 24))
    settings = {**FINETUNE, "checkpoint_every_s": 0.05}
    steps = 30 * KILLS
    root, scan = str(project.root), next(iter(project.scans))
    job = FinetuneJob(project=root, steps=steps, settings=settings, predict_scans=(scan,))
    undisturbed = engine.run(job, Events(), never)["run"]
    annotations = files_of(project.root / "annotations")
    write_job(tmp_path / "job.json", job)
    moments = random.Random(0)
    reached, run = 0, ""
    for _ in range(KILLS):
        events = killed(tmp_path / "job.json", moments.uniform(0, LONGEST_S))
        started = events[0]
        assert isinstance(started, Started), started
        assert run in ("", started.run)
        run = started.run
        assert went_on_from(events, reached)
        reached = max([reached, *(event.step for event in events if isinstance(event, Checkpoint))])
        assert files_of(project.root / "annotations") == annotations
        assert stored_step(project, run) >= reached
        write_job(tmp_path / "job.json", FinetuneJob(project=root, resume=run))
    last = left_alone(tmp_path / "job.json")
    assert isinstance(last, Done)
    assert last.result["step"] == steps
    assert project.prediction(run, scan) is not None
    assert not list(project.run(run).folder.glob(".*")), "half-written files were left behind"
    one, two = (checkpoint.load(project.run(each).checkpoint)[0] for each in (undisturbed, run))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_is_trained_by_one_process(tmp_path: Path) -> None:
    """A second one is refused at once and changes nothing; a killed one stands in nobody's way."""
    project = make_project(tmp_path, shape=(12, 24, 24))
    root = str(project.root)
    write_job(tmp_path / "job.json", FinetuneJob(project=root, steps=10_000, settings=FINETUNE))
    child = start(tmp_path / "job.json")
    assert child.stdout is not None
    started = from_line(child.stdout.readline())
    assert isinstance(started, Started)
    events = Events()
    with pytest.raises(UserError, match=f"{started.run} is being trained by another process") as error:
        engine.run(FinetuneJob(project=root, resume=started.run), events, never)
    assert code_of(error) == "locked"
    assert not events
    child.kill()
    child.communicate(timeout=60)
    steps = stored_step(project, started.run) + 2
    result = engine.run(FinetuneJob(project=root, resume=started.run, steps=steps), events, never)
    assert result["step"] == steps


def left_alone(job: Path) -> Event:
    """The last event of a child that may end; its standard input stays open, for its end would mean stop."""
    child = start(job)
    assert child.stdout is not None
    lines = child.stdout.read().splitlines()
    child.wait(timeout=60)
    return from_line(lines[-1])


def went_on_from(events: list[Event], reached: int) -> bool:
    """Whether a child that lived to say so went on from the last announced checkpoint or a later one."""
    said = [event.text for event in events if isinstance(event, Notice) and "Resuming at step" in event.text]
    return all(int(text.split("step ")[1].split(",")[0]) >= reached for text in said)


def stored_step(project: Project, run: str) -> int:
    """The step of the checkpoint, which is whole, as is the card beside it; 0 before the first."""
    path = project.run(run).checkpoint
    if not path.exists():
        return 0
    assert project.run(run).card["kind"] == "finetune"
    return int(checkpoint.load(path)[1]["step"])
