"""Two processes of torchrun: the losses of one process, and what happens where one of them ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from medssl.core.events import Failed, Progress, Started, from_line
from medssl.core.jobs import PretrainJob, write_job
from medssl.core.methods import METHODS
from medssl.core.project.project import Project
from medssl.nn.models import checkpoint
from ranked import GRADIENT, STEPS, train
from small import SHAPE, make_project
from torch import Tensor

KINDS = [*sorted(METHODS), "shapes", "finetune", "finetune-3d", "finetune-both"]
HALF = STEPS // 2
FIRST, LATER = 1e-5, 1e-3
"""Largest relative difference of the scalars of the first step, which differs in the order of its sums alone,
and of the later ones: rounding grows from step to step, tenfold in each where a batch norm makes gradients
nearly 0, as Adam divides by their size. Means of means of three and of two rows would be off by a tenth."""
SUMS, TIMES = 1e-6, 4
"""Relative error of a gradient whose sums have another order; and how much farther than one process with such
errors two may come from one: where Adam divides by nearly 0, a step has another sign or none."""
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform == "win32", reason="torchrun needs gloo"
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("ranks")
    return make_project(folder, seeds=(0, 1, 2), shape=SHAPE, annotated=2)


Trained = tuple[dict[str, Any], dict[str, Tensor]]


@pytest.fixture(scope="module")
def one_process(project: Project) -> Callable[[str], Trained]:
    """What one process notes of a training."""
    return cache(lambda kind: train(kind, project))


@pytest.fixture(scope="module")
def two_processes(project: Project, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """What two processes note of all trainings."""
    half, _ = train("mae", project, stop=HALF)
    trainings: dict[str, dict[str, Any]] = {kind: {"kind": kind} for kind in KINDS}
    trainings["stopped"] = {"kind": "mae", "stop": HALF}
    trainings["resumed"] = {"kind": "mae", "resume": half["run"]}
    trainings["short"] = {"kind": "pgl", "short": True}
    folder = tmp_path_factory.mktemp("noted")
    script = str(Path(__file__).with_name("ranked.py"))
    given = [str(project.root), str(folder), json.dumps([*trainings.values()])]
    done = subprocess.run([*TORCHRUN, script, *given], env=ONE_THREAD, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-4000:]
    found = {}
    for number, name in enumerate(trainings):
        tensors, card = checkpoint.load(folder / f"{number}.safetensors")
        found[name] = card["noted"], tensors
    return found


def worst(one: Sequence[dict[str, float]], two: Sequence[dict[str, float]]) -> list[float]:
    """Largest relative difference of the scalars of each step, which have the same names."""
    assert len(one) == len(two)
    steps = list(zip(one, two, strict=True))
    # What rank 0 evaluates now and then depends on the time that it has.
    shared = [(first.keys() & second.keys(), first, second) for first, second in steps]
    return [max(abs(a[name] - b[name]) / max(abs(a[name]), 1e-2) for name in names) for names, a, b in shared]


def distance(one: dict[str, Tensor], two: dict[str, Tensor], part: str) -> float:
    """Distance of the tensors whose names have this part, relative to their length."""
    names = [name for name in one if part in name]
    off = sum(float((one[name] - two[name]).double().square().sum()) for name in names)
    return (off / sum(float(one[name].double().square().sum()) for name in names)) ** 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_the_losses_are_those_of_one_process_with_the_whole_batch(
    kind: str, two_processes: dict[str, Trained], one_process: Callable[[str], Trained], project: Project
) -> None:
    one, tensors = one_process(kind)
    two, other = two_processes[kind]
    differences = worst(one["steps"], two["steps"])
    apart = distance(tensors, other, "modules.network.")
    assert differences[0] < FIRST
    if max(*differences, apart) >= LATER:  # not farther than such an error drives one process from itself
        rounded, changed = train(kind, project, error=SUMS)
        assert max(differences) < max(LATER, TIMES * max(worst(one["steps"], rounded["steps"])))
        assert apart < max(LATER, TIMES * distance(tensors, changed, "modules.network."))
    assert tensors.keys() == other.keys()
    assert torch.equal(tensors["generator"], other["generator"])
    assert distance(tensors, other, GRADIENT) < FIRST  # Adam's steps would not show its length


def test_one_process_takes_up_what_two_have_begun(
    two_processes: dict[str, Trained], one_process: Callable[[str], Trained], project: Project
) -> None:
    begun, whole = two_processes["stopped"][0], one_process("mae")[0]
    rest, _ = train("mae", project, resume=begun["run"])
    assert len(begun["steps"]) == HALF
    assert max(worst(whole["steps"], begun["steps"] + rest["steps"])) < LATER


def test_two_processes_take_up_what_one_has_begun(
    two_processes: dict[str, Trained], one_process: Callable[[str], Trained]
) -> None:
    whole = one_process("mae")[0]
    assert max(worst(whole["steps"][HALF:], two_processes["resumed"][0]["steps"])) < LATER


def test_short_memory_in_one_process_makes_the_batch_of_all_smaller(
    two_processes: dict[str, Trained],
) -> None:
    noted, _ = two_processes["short"]
    assert "Out of memory: training continues with a batch of 2 patches of 3 x 24 x 24." in noted["notices"]
    assert len(noted["steps"]) == STEPS
    assert worst(two_processes["pgl"][0]["steps"][:2], noted["steps"][:2]) == [0.0, 0.0]


@pytest.fixture
def running(project: Project) -> Iterator[subprocess.Popen[str]]:
    """The viewer's job of that project in two processes, with nobody at standard input."""
    write_job(project.root / "job.json", PretrainJob(project=str(project.root), method="mae", minutes=30.0))
    command = [*TORCHRUN, "-m", "medssl", "run", str(project.root / "job.json")]
    child = subprocess.Popen(
        command, env=ONE_THREAD, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    yield child
    child.kill()
    child.communicate()


def rank_of(child: subprocess.Popen[str], rank: int) -> int:
    """Process id of a rank."""
    children = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    return next(
        int(pid) for pid in children if f"RANK={rank}" in Path(f"/proc/{pid}/environ").read_text().split("\0")
    )


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="ranks are found in /proc")
def test_where_one_process_is_killed_all_end_with_a_checkpoint(
    running: subprocess.Popen[str], project: Project
) -> None:
    assert running.stdout is not None
    events = []
    for line in running.stdout:
        events.append(from_line(line))
        if isinstance(events[-1], Progress) and events[-1].step > 20:
            break
    step = events[-1].step
    os.kill(rank_of(running, 1), signal.SIGKILL)
    events += [from_line(line) for line in running.stdout]  # rank 0 alone has spoken
    started, last = events[0], events[-1]
    assert isinstance(started, Started)
    run = project.run(started.run)
    assert run.card["step"] >= step
    assert isinstance(last, Failed)
    assert last.code == "process-lost"
    assert running.wait(60) != 0
    # As much for each process as one on its own would have.
    assert started.plan["batch"] == 64
    assert "2 processes, each with 32 patches of 3 x 24 x 24 of a batch of 64" in started.reasons


@pytest.mark.parametrize("arguments", [("-",), ("--on", "gpu1", "job.json")])
def test_torchrun_starts_job_files_on_this_computer_alone(arguments: tuple[str, ...]) -> None:
    """All but rank 0 would wait for ever for a line, and each of them would send the job."""
    for rank in ("0", "1"):
        environment = {**ONE_THREAD, "WORLD_SIZE": "2", "RANK": rank}
        command = [sys.executable, "-m", "medssl", "run", *arguments]
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, text=True, capture_output=True, timeout=60
        )
        assert done.returncode == 1
        assert "give the job file, without --on" in (done.stderr if rank == "1" else done.stdout)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"WORLD_SIZE": "two"}, ("WORLD_SIZE is 'two'", "unset it")),
        ({"WORLD_SIZE": "2"}, ("do not find each other", "start all of them by torchrun")),
    ],
)
def test_variables_that_torchrun_did_not_set_are_one_sentence(
    project: Project, tmp_path: Path, variables: dict[str, str], words: tuple[str, ...]
) -> None:
    write_job(tmp_path / "job.json", PretrainJob(project=str(project.root), method="mae", steps=1))
    command = [sys.executable, "-m", "medssl", "run", str(tmp_path / "job.json")]
    done = subprocess.run(command, env={**ONE_THREAD, **variables}, text=True, capture_output=True)
    assert done.returncode == 1
    said = done.stdout + done.stderr.partition("Traceback")[0]
    assert all(word in said for word in words), said
    assert "Traceback" not in done.stderr


def test_torchrun_starts_nothing_but_jobs(project: Project) -> None:
    environment = {**ONE_THREAD, "WORLD_SIZE": "2", "RANK": "0"}
    command = [sys.executable, "-m", "medssl", "scans", str(project.root)]
    done = subprocess.run(command, env=environment, text=True, capture_output=True)
    assert done.returncode == 1
    assert "torchrun can only start `medssl run JOB`" in done.stderr
