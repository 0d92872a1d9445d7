"""Cost of cropping in a pre-training step: python benchmarks/step.py

The same PGL step (network, teacher, loss, optimizer) runs alternately on precomputed tensors, on this
program's views, and on MONAI's CacheDataset and DataLoader with the same crops, zooms, flips and intensity
changes, without and with two workers. MONAI's crops do not include their positions, which PGL needs; they get
the positions of precomputed views.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import monai
import torch
from medssl.benchmarking.dataset import read_dataset
from medssl.benchmarking.report import markdown_table
from medssl.core import recipes
from medssl.core.environment import processor
from medssl.core.phantom import write_dataset
from medssl.core.project.project import Project
from medssl.nn.data.crops import CropBatch
from medssl.nn.data.device_dataset import DeviceDataset, load_device_dataset
from medssl.nn.methods.common import view_size
from medssl.nn.methods.pgl import PGL
from medssl.nn.models.unet import build
from medssl.tasks.plan import planner
from medssl.tasks.pretrain.pretrain import Pretraining
from medssl.tasks.training.loop import step
from medssl.tasks.training.loop_settings import LoopSettings
from medssl.tasks.training.optimizer import make_optimizer
from monai import transforms
from monai.data import CacheDataset, DataLoader, set_track_meta
from rich.console import Console
from rich.markdown import Markdown
from torch import Tensor

CPU = torch.device("cpu")
Pairs = Iterator[tuple[CropBatch, CropBatch]]


class FedPretraining(Pretraining):
    """PGL with pairs of views from an iterator."""

    def __init__(self, method: PGL, pool: DeviceDataset) -> None:
        super().__init__(method, pool)
        self.pairs: Pairs = iter(())

    def loss(self, generator: torch.Generator, fraction: float) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast("cpu", enabled=False):  # images are cropped in full precision
            first, second = next(self.pairs)
        return self.method.compare(first, second)


def program_views(method: PGL, pool: DeviceDataset) -> Pairs:
    """Pairs as in a pre-training."""
    generator = torch.Generator().manual_seed(1)
    while True:
        yield method.views(pool, generator)


class TwoViews:
    """Applies a random transform twice."""

    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        self.transform = transform

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.transform(image), self.transform(image)


def transforms_of(method: PGL, pool: DeviceDataset) -> TwoViews:
    """PGL's views as MONAI transforms: crop the largest box, zoom within it, flip, change grey values."""
    plan, zoom = method.plan, method.settings.zoom
    size = view_size(pool, plan, zoom[1])
    in_plane = size[3 - plan.dims :]
    box = (size[0], *(round(length * zoom[1]) for length in size[1:]))
    smallest = (zoom[0] / zoom[1] - 1, 0.0)  # affine scales are relative to the cropped box
    scales = [smallest, smallest] if plan.dims == 2 else [(0.0, 0.0), smallest, smallest]
    steps: list[Any] = [transforms.RandSpatialCrop(box, random_size=False)]
    if plan.dims == 2:
        steps.append(transforms.SqueezeDim(dim=0))
    steps += [
        transforms.RandAffine(
            prob=1.0, scale_range=scales, spatial_size=in_plane, mode="bilinear", padding_mode="border"
        ),
        *(transforms.RandFlip(prob=0.5, spatial_axis=axis) for axis in range(plan.dims)),
        transforms.RandGaussianNoise(prob=0.1, std=0.3),
        transforms.RandGaussianSmooth(prob=0.2, sigma_x=(0.5, 1), sigma_y=(0.5, 1), sigma_z=(0.5, 1)),
        transforms.RandScaleIntensity(factors=0.25, prob=0.5),
        transforms.RandAdjustContrast(prob=0.5, gamma=(0.7, 1.5)),
    ]
    return TwoViews(transforms.Compose(steps))


def monai_views(
    method: PGL, pool: DeviceDataset, precomputed: list[tuple[CropBatch, CropBatch]], workers: int
) -> Pairs:
    """Endless pairs from MONAI's loader, with the positions of precomputed views."""
    batch = method.plan.batch
    images = [image[None] for image in pool.images] * (1 + 4 * batch // len(pool))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing to cache before the first random transform
        dataset = CacheDataset(images, transforms_of(method, pool), progress=False)
    loader = DataLoader(
        dataset,
        batch_size=batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    positions = itertools.cycle(precomputed)
    while True:
        for one, two in loader:
            first, second = next(positions)
            yield replace(first, image=one), replace(second, image=two)


class Stopwatch:
    """Runs training steps and records their milliseconds."""

    def __init__(self, task: FedPretraining, precision: str) -> None:
        self.task, self.settings = task, LoopSettings(precision=precision)
        self.optimizer = make_optimizer(task.modules, task.parameter_groups(), 1e-3, 1e-2)
        self.generator = torch.Generator()
        self.turns: list[dict[str, list[float]]] = []

    def step(self, name: str, pairs: Pairs, warm_up: bool = False) -> None:
        self.task.pairs = pairs
        begin = time.perf_counter()
        step(self.task, self.optimizer, self.settings, self.generator, 0.5)
        if not warm_up:
            self.turns[-1].setdefault(name, []).append(1e3 * (time.perf_counter() - begin))


GOALS = (
    "Goals: cropping takes at most 15 % of a step with precomputed tensors, and no MONAI pipeline is faster. "
    "MONAI gets plain tensors (no tracked metadata) from cached scans and does not report the positions of "
    "crops."
)
PRECOMPUTED, OWN, NO_WORKERS, WORKERS = (
    "precomputed tensors",
    "this program's views",
    "MONAI, no workers",
    "MONAI, 2 workers",
)


def measure(project: Project, dims: int, repeats: int, steps: int) -> list[str]:
    """Lines of a Markdown table for a 2.5D or a 3D plan."""
    plan, _ = planner.choose(project, list(project.scans), CPU, {"dims": dims})
    torch.set_num_threads(plan.threads)
    pool = load_device_dataset(project, list(project.scans), plan, CPU)
    settings = PGL.Settings(**recipes.read("pgl-quick").method)
    torch.manual_seed(0)
    method = PGL(build(plan, plan.patch_vox[0] if dims == 2 else 1, 0), plan, settings)
    stopwatch = Stopwatch(FedPretraining(method, pool), plan.precision)
    precomputed = list(itertools.islice(program_views(method, pool), 8))
    feeds = {
        PRECOMPUTED: itertools.cycle(precomputed),
        OWN: program_views(method, pool),
        NO_WORKERS: monai_views(method, pool, precomputed, 0),
    }
    for name, pairs in feeds.items():
        stopwatch.step(name, pairs, warm_up=True)
    for _ in range(repeats):
        stopwatch.turns.append({})
        for _ in range(steps):  # in turn, so that other load affects all alike
            for name, pairs in feeds.items():
                stopwatch.step(name, pairs)
        # Workers would fill their queues during the steps of others, so their steps run together.
        fed_by_workers = monai_views(method, pool, precomputed, 2)
        for number in range(2 + steps):
            stopwatch.step(WORKERS, fed_by_workers, warm_up=number < 2)
        del fed_by_workers
    size = " x ".join(map(str, view_size(pool, plan, settings.zoom[1])))
    return table(
        f"{'2.5D' if dims == 2 else '3D'}, {plan.batch} pairs of {size}, {plan.precision}", stopwatch.turns
    )


def table(title: str, turns: list[dict[str, list[float]]]) -> list[str]:
    """Markdown table: medians over all steps, and medians over turns of the ratios within a turn."""

    def ratio(one: str, other: str) -> float:
        return statistics.median(
            statistics.median(turn[one]) / statistics.median(turn[other]) for turn in turns
        )

    times = {name: [each for turn in turns for each in turn[name]] for name in turns[0]}
    heading = [title, "median ms", "minimum ms", "relative to precomputed", "our step relative to it"]
    rows = []
    for name, each in times.items():
        milliseconds = [f"{value:.0f}" for value in (statistics.median(each), min(each))]
        rows.append([name, *milliseconds, f"{ratio(name, PRECOMPUTED):.2f}", f"{ratio(OWN, name):.2f}"])
    return [markdown_table(heading, rows), ""]


def make_project(folder: Path, data: Path | None, scans: int) -> tuple[Project, str]:
    """A project of the data set, or of phantoms if it does not exist, and a description of the scans."""
    if data is not None and data.is_dir():
        dataset, name = read_dataset(data), f"{scans} scans of {data.name}"
    else:
        dataset, name = read_dataset(write_dataset(folder / "phantoms", range(8))), "8 phantoms"
    project = Project.create(folder / "project")
    for image, _ in dataset.pairs[:scans]:
        project.add_scan(image)
    return project, name


def main() -> None:
    """Run the benchmark and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).parents[2] / "shared" / "data"
    hippocampus = Path(os.environ.get("MEDSSL_DATA") or default) / "Task04_Hippocampus"
    parser.add_argument("--data", type=Path, default=hippocampus, help="MSD folder; else phantoms are used")
    parser.add_argument("--scans", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=7, help="repetitions of the comparison")
    parser.add_argument("--steps", type=int, default=10, help="steps of each data source per repetition")
    parser.add_argument("--out", type=Path, help="also write the Markdown to this file")
    options = parser.parse_args()
    set_track_meta(False)  # plain tensors: MONAI at its fastest
    with tempfile.TemporaryDirectory() as folder:
        project, name = make_project(Path(folder), options.data, options.scans)
        tables = [measure(project, dims, options.repeats, options.steps) for dims in (2, 3)]
    text = "\n".join(
        [
            "# Data loading of a pre-training step",
            "",
            f"`python benchmarks/step.py`, {time.strftime('%d %B %Y')}; {processor()}, "
            f"{os.cpu_count()} cores, {torch.get_num_threads()} threads; torch {torch.__version__}, "
            f"MONAI {monai.__version__}; {name}; {options.repeats} turns of {options.steps} steps each.",
            "",
            GOALS,
            "",
            *itertools.chain(*tables),
        ]
    )
    Console(width=110).print(Markdown(text))
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
