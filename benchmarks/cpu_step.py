"""A training step on a CPU, before and after: python benchmarks/cpu_step.py

Forward pass, backward pass and AdamW of the network that ships, in turn in two ways, so that other load on
the machine affects both alike: with torch's instance norm on images that are stored channel by channel and
with AdamW parameter by parameter, and as the program does it (nn/models/instance_norm.py).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from medssl.benchmarking.report import markdown_table
from medssl.benchmarking.surroundings import machine_text, surroundings
from medssl.core.shipped import weights_file
from medssl.nn.devices import autocast, fast_bf16
from medssl.nn.models.instance_norm import InstanceNorm
from medssl.nn.models.network_weights import load_network
from medssl.nn.models.unet import Network
from medssl.tasks.training.optimizer import make_optimizer
from torch import Tensor, nn

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "cpu_step.md"
BATCHES = ((7, 64, 96), (14, 64, 96), (21, 48, 40), (4, 96, 96), (32, 48, 48), (2, 256, 256))
"""Number of patches and their size; the first three are those of a fine-tuning on CT, without and with
pseudo-labels, and on the hippocampus."""
CPU = torch.device("cpu")
PAGE_TEXT = """# A training step on a CPU

`python benchmarks/cpu_step.py --page`, {day}; {machine}; commit {commit}.

Network that ships (16 to 128 channels): forward pass, backward pass and AdamW, medians in milliseconds.
*Before*: torch's instance norm on images that are stored channel by channel, and AdamW parameter by
parameter. Both run in turn.

{table}
"""


class Before(InstanceNorm):
    """torch's instance norm, which converts its input to the other memory format."""

    def forward(self, image: Tensor) -> Tensor:
        """Normalize feature maps (B, C, H, W)."""
        return nn.functional.instance_norm(image.contiguous(), weight=self.weight, bias=self.bias)


class NetworkBefore(Network):
    """A network that leaves images in the format in which they come."""

    def encode(self, image: Tensor) -> list[Tensor]:
        """Feature maps of all levels, finest first (B, C, ...)."""
        levels = []
        for block in self.encoder:
            image = block(image)
            levels.append(image)
        return levels


def way(before: bool, precision: str) -> Callable[[Tensor], None]:
    """A training step of the network that ships: a function of images (B, 3, H, W)."""
    network = load_network(weights_file())[0].train().requires_grad_(True)
    optimizer = make_optimizer(network, [{"params": list(network.parameters())}], 1e-4, 1e-2)
    if before:
        network.__class__ = NetworkBefore
        for module in network.modules():
            if isinstance(module, InstanceNorm):
                module.__class__ = Before
        optimizer = torch.optim.AdamW(network.parameters(), 1e-4)

    def step(images: Tensor) -> None:
        with autocast(CPU, precision):
            scores = network(images)
        optimizer.zero_grad(set_to_none=True)
        scores.float().square().mean().backward()
        optimizer.step()

    return step


def row(batch: tuple[int, int, int], precision: str, repeats: int) -> list[str]:
    """Cells of a table: the batch, milliseconds before and after, and the median ratio within a turn."""
    count, height, width = batch
    images = torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))
    ways = [way(before, precision) for before in (True, False)]
    turns = []
    for _ in range(2 + repeats):
        times = []
        for step in ways:
            begin = time.perf_counter()
            step(images)
            times.append(1e3 * (time.perf_counter() - begin))
        turns.append(times)
    before, after = zip(*turns[2:], strict=True)
    ratio = statistics.median(one / other for one, other in turns[2:])
    medians = [f"{statistics.median(each):.0f}" for each in (before, after)]
    return [f"{count} of 3 x {height} x {width}", precision, *medians, f"{ratio:.2f}"]


def main() -> None:
    """Measure, print the table, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--page", action="store_true", help=f"write {PAGE.name}")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    precisions = ("bf16", "fp32") if fast_bf16(CPU) else ("fp32",)  # as the program chooses
    rows = [row(batch, precision, options.repeats) for precision in precisions for batch in BATCHES]
    machine = surroundings("cpu")
    text = PAGE_TEXT.format(
        day=f"{date.today():%d %B %Y}",
        machine=machine_text(machine, options.threads),
        commit=machine["commit"],
        table=markdown_table(["patches", "precision", "before", "after", "times as fast"], rows),
    )
    print(text)
    if options.page:
        PAGE.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
