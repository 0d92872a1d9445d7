"""What a GPU makes of a training, without and with CUDA graphs: python benchmarks/gpu.py [--out DIR]

For whoever has a card for ten minutes: it runs whole within them, on synthetic scans, with the weights that
ship. Tables, each printed and written to DIR/gpu.md when it is complete:

1. Scores of the network on the CPU and on the card.
2. Steps of a fine-tuning and of every method, with kernels launched one by one (*eager*) and with recorded
   passes (*graphs*): milliseconds, the card's share of them, and the largest relative difference of a loss.
3. Dice after one minute of fine-tuning, in both ways.

`--device cpu --seconds 2` tries the script where there is no card: both ways are then the same.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from medssl import engine
from medssl.benchmarking import experiment, protocol
from medssl.benchmarking.dataset import read_dataset
from medssl.benchmarking.protocol import Material
from medssl.benchmarking.report import markdown_table
from medssl.benchmarking.surroundings import machine_text, surroundings
from medssl.core import shipped
from medssl.core.events import Event
from medssl.core.jobs import FinetuneJob, PretrainJob, TrainingJob
from medssl.core.methods import METHODS
from medssl.core.phantom import write_dataset
from medssl.core.project.project import Project
from medssl.nn import devices
from medssl.nn.models.network_weights import load_network
from medssl.tasks import profiling
from medssl.tasks.training import loop
from medssl.tasks.training.optimizer import optimizer_for
from torch import Generator
from torch.profiler import ProfilerActivity, profile

WARM_UP, STEPS, PROFILED = 5, 30, 10
"""Steps before the timed ones (they record the graphs), timed ones, and those that the profiler sees."""
SCANS, SLICES = 8, 10
RATE = 1e-4
"""Learning rate of table 2: low, so that differences of rounding stay small."""


@dataclass(frozen=True)
class Steps:
    """Steps of a training in one way."""

    losses: list[float]
    ms: float
    busy: float | None
    """Share of the time in which the card computes."""


def unheard(event: Event) -> None:
    """An Emit that discards events."""


def scans(folder: Path) -> Material:
    """A project with synthetic scans, of which two have complete slices."""
    write_dataset(folder / "phantoms", range(SCANS))
    dataset = read_dataset(folder / "phantoms")
    project = Project.create(folder / "project", dataset.classes)
    material = protocol.gather(project, dataset, lambda done: None)
    protocol.assign(material, "shapes", 0, protocol.Settings(slices=SLICES, minutes=1))
    return material


def agreement(device: torch.device) -> str:
    """Largest difference of a score between the CPU and the device, by precision."""
    network, plan, _ = load_network(shipped.weights_file())
    image = torch.randn(4, plan.in_channels, 128, 128, generator=Generator().manual_seed(0))
    rows = []
    with torch.inference_mode():
        expected = network(image)
        network.to(device)
        for precision in ("fp32", "bf16"):
            with devices.autocast(device, precision):
                found = network(image.to(device))
            difference = (found.float().cpu() - expected).abs().max()
            rows.append([precision, f"{difference:.2g}", f"{difference / expected.abs().max():.2g}"])
    return markdown_table(
        ["precision on the device", "largest difference", "relative to the largest score"], rows
    )


def job_of(kind: str, project: Project, device: torch.device, graphs: bool) -> TrainingJob:
    """A fine-tuning ("finetune") or a pre-training by a method."""
    settings = {"cuda_graphs": graphs, "learning_rate": RATE}
    common: dict[str, Any] = {"project": str(project.root), "device": str(device), "settings": settings}
    return FinetuneJob(**common) if kind == "finetune" else PretrainJob(**common, method=kind)


def steps(kind: str, project: Project, device: torch.device, graphs: bool, count: int) -> Steps:
    """Run a few steps of a training.

    Args:
        kind: "finetune" or the name of a method.
        project: The project.
        device: Where to train.
        graphs: Whether passes are recorded.
        count: Number of timed steps.
    """
    _, settings, task, _, _ = profiling.make(project, job_of(kind, project, device, graphs), device)
    optimizer, generator = optimizer_for(task, settings), Generator().manual_seed(0)

    def one() -> torch.Tensor:
        return loop.step(task, optimizer, settings, generator, 0.3)[0]

    losses = [one() for _ in range(WARM_UP)]
    devices.wait(device)
    begin = time.perf_counter()
    losses += [one() for _ in range(count)]
    devices.wait(device)
    ms = 1e3 * (time.perf_counter() - begin) / count
    busy = None
    if device.type == "cuda":
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            begin = time.perf_counter()
            for _ in range(PROFILED):
                one()
            devices.wait(device)
            seconds = time.perf_counter() - begin
        busy = sum(event.self_device_time_total for event in seen.key_averages()) / 1e6 / seconds
    return Steps([loss.item() for loss in losses], ms, busy)


def step_table(project: Project, device: torch.device, count: int) -> str:
    """Table 2: a row for the fine-tuning and for each method."""
    rows = []
    for kind in ("finetune", *sorted(METHODS)):
        eager, graphed = (steps(kind, project, device, graphs, count) for graphs in (False, True))
        apart = max(
            abs(one - other) / max(abs(one), 1e-2)
            for one, other in zip(eager.losses, graphed.losses, strict=True)
        )
        shares = ["" if way.busy is None else f"{100 * way.busy:.0f} %" for way in (eager, graphed)]
        times = [f"{way.ms:.1f}" for way in (eager, graphed)]
        rows.append([kind, *times, f"{eager.ms / graphed.ms:.2f}", *shares, f"{apart:.1g}"])
        print(rows[-1], flush=True)
    heads = [
        "training",
        "eager, ms",
        "graphs, ms",
        "times as fast",
        "busy, eager",
        "busy, graphs",
        "losses differ by",
    ]
    return markdown_table(heads, rows)


def dice_table(material: Material, device: torch.device, seconds: float) -> str:
    """Table 3: Dice of the test scans, eager and with graphs."""

    def work(job: Any) -> dict[str, Any]:
        return engine.run(job, unheard, lambda: False)

    rows = []
    for way, graphs in (("eager", False), ("graphs", True)):
        settings = protocol.Settings(SLICES, seconds / 60, str(device), finetune={"cuda_graphs": graphs})
        cell = experiment.run_cell(material, "shapes", 0, settings, work)
        rows.append([way, str(cell.steps["finetune"]), f"{cell.dice:.3f}"])
    return markdown_table(["way", f"steps in {seconds:.0f} s", "Dice"], rows)


def main() -> None:
    """Make the tables one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seconds", type=float, default=60.0, help="of fine-tuning for table 3")
    parser.add_argument("--out", type=Path, help="folder for gpu.md; it gets each table when it is complete")
    options = parser.parse_args()
    device = devices.choose(options.device)
    machine = surroundings(options.device)
    text = ""

    def add(part: str) -> None:
        nonlocal text
        text += part + "\n\n"
        print(part, flush=True)
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            (options.out / "gpu.md").write_text(text, "utf-8")

    add(
        f"`python benchmarks/gpu.py`, {time.strftime('%d %B %Y')}; {machine_text(machine)}; "
        f"commit {machine['commit']}; {SCANS} synthetic scans."
    )
    add(agreement(device))
    with tempfile.TemporaryDirectory() as folder:
        material = scans(Path(folder))
        add(step_table(material.project, device, options.steps))
        add(dice_table(material, device, options.seconds))


if __name__ == "__main__":
    main()
