"""Two processes against one, and what more would cost: python benchmarks/ranks.py

Every method and fine-tuning trains on small scans for ten steps in one process, and in two that share each
batch of five. Printed are the largest differences of what is logged, beside those of one process whose
gradients are rounded differently; how often and how much the processes exchange; what happens when one of
them is killed; and, calculated, what the exchanges would take on 8 GPUs and on 4 x 8.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from medssl.benchmarking.report import markdown_table
from medssl.benchmarking.surroundings import machine_text, surroundings
from medssl.core.events import Event, Failed, Progress, Started, from_line
from medssl.core.jobs import Plan, PretrainJob, TrainingJob, write_job
from medssl.core.methods import METHODS
from medssl.core.project.project import Project
from medssl.nn import distributed
from medssl.nn.models import checkpoint
from medssl.nn.models.unet import build
from torch import Tensor
from torch import distributed as dist

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "engine"))
import ranked  # noqa: E402
from small import SHAPE, make_project  # noqa: E402

PAGE = ROOT / "docs" / "benchmarks" / "ranks.md"
KINDS = [*sorted(METHODS), "shapes", "finetune", "finetune-3d", "finetune-both"]
STEPS = 10
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node")
EXCHANGES, STEP_MS = 22, 28.0
"""Exchanges of a step at most, as counted below, besides gradients and control; a step of fine-tuning on an
H100 (LOG.md), which waits for launches whatever the batch."""
PAGE_TEXT = """# Several processes

`python benchmarks/ranks.py --page`, {day}; {machine}; commit {commit}.

## Losses
Ten steps in one process and in two (gloo, CPU), which share each batch of five rows: three and two. *First*
and *later* are the largest relative differences of all that is logged, in the first step and in the nine
later ones. *Rounding* is the latter between two trainings in one process, of which one has its gradients
changed by the last bit. *Weights* is the distance of the networks after ten steps, relative to their
length. Exchanges are those of a step, besides two small ones by which the processes agree.

{losses}

The first step differs in the order of its sums. From then on every difference is one of rounding, which
AdamW amplifies: it divides a gradient by its size, and where the exact gradient is 0 (a bias in front of a
batch norm: pgl, byol, mae+pgl) that makes a whole step of what was rounded.

## A process is killed
The job file is that of the viewer; standard input is at its end.

{kill}

## On paper: 8 GPUs, and 4 machines of 8
Not measured: no machine with two GPUs was at hand. A ring all-reduce of n processes sends 2 (n - 1) / n
times the bytes through every link. Assumed are

- {links.local_gb:.0f} GB/s between the GPUs of a machine, and {links.local_us:.0f} us for each exchange,
- {links.remote_gb:.0f} GB/s between machines, and {links.remote_us:.0f} us more,
- {exchanges} small exchanges, the most of a method above, besides the gradients,
- {control[0]:.1f} ms for each of the two in which processes agree, and {control[1]:.1f} ms between machines
  (measured above, two processes on one machine: {control_ms:.2f} ms),
- a step of {step:.0f} ms, that of a fine-tuning on an H100 ([LOG](LOG.md)). Each process computes as many
  patches as one on its own would, so the step stays as long.

*Patches* are those per second, relative to one GPU.

{paper}

A step of these networks waits for kernel launches, so exchanges cost little beside it. With CUDA graphs,
and a step of a few milliseconds, the small exchanges of a method with batch norms would be the larger part.
"""


@dataclass(frozen=True)
class Links:
    """How processes are connected: machines of 8 GPUs."""

    machines: int
    local_gb: float = 200.0
    local_us: float = 30.0
    remote_gb: float = 50.0
    remote_us: float = 60.0
    control_ms: tuple[float, float] = (0.2, 0.6)

    def ms(self, size: float, exchanges: int) -> float:
        """Milliseconds of a step's exchanges.

        Args:
            size: Bytes of the gradients.
            exchanges: Number of the others, which are small.
        """
        inside = 2 * 7 / 8 * size / (self.local_gb * 1e6) + (1 + exchanges) * self.local_us / 1e3
        if self.machines == 1:
            return inside + 2 * self.control_ms[0]
        share = 2 * (self.machines - 1) / self.machines * size / (self.remote_gb * 1e6)
        return inside + share + (1 + exchanges) * self.remote_us / 1e3 + 2 * self.control_ms[1]


def in_two(root: Path, folder: Path) -> None:
    """Train every kind, in a process of torchrun; rank 0 writes what it notes, and counts the exchanges."""
    counted: list[int] = []
    exchange = distributed._exchange

    def counting(way: Callable[..., Any], tensor: Tensor, *given: Any) -> None:
        if way is dist.all_reduce:  # not what is sent once, at the start and in a round of pseudo-labels
            counted.append(tensor.nbytes)
        exchange(way, tensor, *given)

    distributed._exchange = counting
    ranked.STEPS = STEPS
    with distributed.together():
        waits = []
        for _ in range(200):
            begin = time.perf_counter()
            distributed.go_on(0.0, lambda: False)
            waits.append(time.perf_counter() - begin)
        for kind in KINDS:
            counted.clear()
            noted, tensors = ranked.train(kind, Project.open(root))
            if distributed.leads():
                noted |= {"exchanges": len(counted) / STEPS, "bytes": sum(counted) / STEPS}
                noted |= {"largest": max(counted), "control_ms": 1e3 * statistics.median(waits)}
                checkpoint.save(folder / f"{kind}.safetensors", tensors, {"noted": noted})


def differences(one: list[dict[str, float]], two: list[dict[str, float]]) -> list[float]:
    """Largest relative difference of what is logged, of each step."""
    return [
        max(abs(a[name] - b[name]) / max(abs(a[name]), 1e-2) for name in a.keys() & b.keys())
        for a, b in zip(one, two, strict=True)
    ]


def distance(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    """Distance of two networks relative to the length of their weights."""
    names = [name for name in one if name.startswith("modules.network")]
    off = sum(float((one[name] - two[name]).double().square().sum()) for name in names)
    return (off / sum(float(one[name].double().square().sum()) for name in names)) ** 0.5


def losses(project: Project, folder: Path) -> tuple[str, float]:
    """Table of the differences, and milliseconds of an exchange of the control."""
    subprocess.run(
        [*TORCHRUN, "2", __file__, "--in-two", str(project.root), str(folder)], check=True, env=one_thread()
    )
    ranked.STEPS = STEPS
    rows, control_ms = [], 0.0
    for kind in KINDS:
        one, tensors = ranked.train(kind, project)
        other, card = checkpoint.load(folder / f"{kind}.safetensors")
        two = card["noted"]
        control_ms = two["control_ms"]
        off = differences(one["steps"], two["steps"])
        rounding = differences(one["steps"], ranked.train(kind, project, error=ranked.ROUNDING)[0]["steps"])
        values = [steps[-1]["loss"] for steps in (one["steps"], two["steps"])]
        numbers = [off[0], max(off[1:]), max(rounding[1:]), distance(tensors, other)]
        sizes = [two["largest"] / 1e6, max(two["bytes"] - two["largest"], 0) / 1e3]
        rows.append(
            [
                kind,
                *(f"{value:.6f}" for value in values),
                *(f"{number:.0e}" for number in numbers),
                f"{two['exchanges']:.0f}",
                f"{sizes[0]:.1f}",
                f"{sizes[1]:.0f}",
            ]
        )
    heading = ["training", "one: loss of step 10", "two", "first", "later", "rounding", "weights"]
    return markdown_table([*heading, "exchanges", "MB of gradients", "kB besides"], rows), control_ms


def one_thread() -> dict[str, str]:
    """The environment, with one thread a process."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def started(job: TrainingJob, processes: int) -> subprocess.Popen[str]:
    """A job in so many processes of torchrun, with nobody at standard input."""
    path = Path(job.project) / "job.json"
    write_job(path, job)
    command = [*TORCHRUN, str(processes), "-m", "medssl", "run", str(path)]
    pipes: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, text=True, env=one_thread(), **pipes)


def ended(job: TrainingJob, processes: int) -> list[Event]:
    """The events of a job that runs to its end."""
    child = started(job, processes)
    assert child.stdout is not None
    events = [from_line(line) for line in child.stdout]
    child.wait()
    return events


def kill(project: Project) -> str:
    """Kill one of two processes, resume with one and with three; a table."""
    job = PretrainJob(project=str(project.root), method="mae", minutes=30.0)
    child = started(job, 2)
    assert child.stdout is not None
    rows, run, seen = [], "", 0
    for line in child.stdout:
        event = from_line(line)
        if isinstance(event, Started):
            run = event.run
        if isinstance(event, Progress) and event.step > 50 and not seen:
            seen, begin = event.step, time.monotonic()
            os.kill(rank_of(child, 1), signal.SIGKILL)
        if isinstance(event, Failed):
            step = project.run(run).card["step"]
            rows += [
                ["rank 1 of 2 is killed", f"after the line of step {seen}"],
                [
                    f"rank 0, {time.monotonic() - begin:.1f} s later",
                    f"checkpoint of step {step}; `{event.text}`",
                ],
            ]
    rows.append(["torchrun ends with", f"exit code {child.wait()}"])
    for processes, more in ((1, 20), (3, 40)):
        ended(replace(job, resume=run, steps=step + more), processes)
        rows.append([f"resumed with {processes}", f"checkpoint of step {project.run(run).card['step']}"])
    return markdown_table(["", ""], rows, text=(0, 1))


def rank_of(child: subprocess.Popen[str], rank: int) -> int:
    """Process id of a rank."""
    children = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    names = {pid: Path(f"/proc/{pid}/environ").read_text().split("\0") for pid in children}
    return next(int(pid) for pid, name in names.items() if f"RANK={rank}" in name)


def paper() -> str:
    """Table of bytes and milliseconds of a step."""
    wide = (32, 64, 128, 256)
    flat, deep = ((1, 1), (2, 2), (2, 2), (2, 2)), ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    plans = {
        "2.5D, 32 to 256 channels": Plan(2, 0, (0.0, 1.0, 1.0), (3, 192, 192), 32, wide, flat),
        "3D, 32 to 256 channels": Plan(3, 0, (1.0, 1.0, 1.0), (128, 128, 128), 2, wide, deep),
    }
    sizes = {
        name: 4.0 * sum(tensor.numel() for tensor in build(plan, 6, 0).parameters())
        for name, plan in plans.items()
    }
    # Two heads of 256 to 4096 to 256 channels.
    sizes["2.5D with the heads of pgl-paper"] = sizes["2.5D, 32 to 256 channels"] + 4.0 * 4 * 256 * 4096
    rows = []
    for name, size in sizes.items():
        row = [name, f"{size / 1e6:.1f}"]
        for machines in (1, 4):
            spent = Links(machines).ms(size, EXCHANGES)
            gain = 8 * machines * STEP_MS / (STEP_MS + spent)
            row += [f"{spent:.1f}", f"{gain:.1f} of {8 * machines}"]
        rows.append(row)
    heading = ["network", "MB of gradients", "8 GPUs: ms", "patches", "4 x 8: ms", "patches"]
    return markdown_table(heading, rows)


def main() -> None:
    """Print the tables, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", action="store_true", help=f"write {PAGE.name}")
    parser.add_argument("--in-two", nargs=2, type=Path, metavar=("PROJECT", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.in_two:
        in_two(*options.in_two)
        return
    with tempfile.TemporaryDirectory() as folder:
        project = make_project(Path(folder), seeds=(0, 1, 2), shape=SHAPE, annotated=2)
        table, control_ms = losses(project, Path(folder))
        machine, links = surroundings("cpu"), Links(4)
        text = PAGE_TEXT.format(
            day=f"{date.today():%d %B %Y}",
            machine=machine_text(machine, 1),
            commit=machine["commit"],
            losses=table,
            kill=kill(project),
            paper=paper(),
            links=links,
            exchanges=EXCHANGES,
            control=links.control_ms,
            control_ms=control_ms,
            step=STEP_MS,
        )
    print(text)
    if options.page:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
