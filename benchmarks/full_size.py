"""Prediction of a CT of 512 x 512 x 800 voxels: python benchmarks/full_size.py [--small] [--out FILE]

A synthetic person at 0.8 mm, five classes, the network that ships with a head that is fitted to another
synthetic person. Each contender runs in a process of its own, one after the other, on the same memory-mapped
scan, with the same network and orientations; seconds are those of the prediction, memory is the most that the
process had resident. This program also smooths, applies the location prior and chooses thresholds; MONAI's
labels are the most probable class.

Then, at 512 x 512 x 64, the labels are compared with those of the whole scan at once, with every option on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from medssl.core import environment, shipped
from medssl.core.allocator import keep_freed_memory
from medssl.core.io.intensity import normalise
from medssl.core.jobs import Plan
from medssl.core.phantom import CLASSES, make_phantom
from medssl.nn.data.device_dataset import DeviceDataset
from medssl.nn.data.multiplanar import axis_orders
from medssl.nn.models import checkpoint
from medssl.nn.models.network_weights import load_matching, load_network
from medssl.nn.models.unet import build
from medssl.tasks.inference import score_volume
from medssl.tasks.inference.posterior_smoothing import TRUNCATE
from medssl.tasks.inference.predict import Trained, segment
from medssl.tasks.inference.scores import MARGIN
from medssl.tasks.inference.stored_location_prior import tensors_of
from medssl.tasks.inference.threads import one_thread
from medssl.tasks.inference.threshold import DiceOptimalLabels
from medssl.tasks.segment.first_head import fit_head
from medssl.tasks.segment.fit_location_prior import fit_location_prior
from monai.inferers import SliceInferer
from torch import Tensor
from torch.nn import functional as F

CPU = torch.device("cpu")
SIDE, FULL, SMALL = 512, 800, 64
EDGE_MM, COARSE = 0.8, 4
"""Edge of a voxel, and how many voxels of the scan a voxel of the drawn person is wide."""
SIGMA_MM, OVERLAP, BATCH, NOISE = 3.0, 0.25, 16, 0.05
PLAN = Plan(
    dims=2,
    slice_axis=0,
    spacing_mm=(0.0, EDGE_MM, EDGE_MM),
    patch_vox=(3, 96, 96),
    batch=4,
    channels=(16, 32, 64, 128),
    strides=((1, 1), (2, 2), (2, 2), (2, 2)),
    multiplanar=True,
    smoothing_sigma_mm=SIGMA_MM,
)
SPACING = (EDGE_MM, EDGE_MM, EDGE_MM)


def make(folder: Path) -> None:
    """Write the scan, and the fine-tuned network as a checkpoint."""
    coarse = (FULL // COARSE, SIDE // COARSE, SIDE // COARSE)
    steps = tuple(COARSE * edge for edge in SPACING)
    people = [make_phantom(seed, coarse, steps)[:2] for seed in range(3)]  # type: ignore[arg-type]
    images = [torch.from_numpy(normalise(hu, "CT").astype(np.float32)) for hu, _ in people]
    labels = [torch.from_numpy(label) for _, label in people]
    scan = np.lib.format.open_memmap(folder / "scan.npy", "w+", np.float16, (FULL, SIDE, SIDE))
    random = np.random.default_rng(0)
    for index in range(0, FULL, COARSE):
        fine = F.interpolate(images[0][None, None, index // COARSE], (SIDE, SIDE), mode="bilinear")[0, 0]
        scan[index : index + COARSE] = fine.numpy() + random.normal(0, NOISE, (COARSE, SIDE, SIDE))
    scan.flush()
    network = build(PLAN, 1 + len(CLASSES), seed=0).eval()
    load_matching(network, load_network(shipped.weights_file())[0].state_dict(), ("head",))

    def slices(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        drawn = torch.randint(len(images[1]), (4,), generator=generator)
        fine = F.interpolate(images[1][drawn, None], (SIDE, SIDE), mode="bilinear").expand(-1, 3, -1, -1)
        target = F.interpolate(labels[1][drawn, None], (SIDE, SIDE))[:, 0].long()
        return fine + NOISE * torch.randn(fine.shape, generator=generator), target

    fit_head(network, PLAN, slices, torch.Generator().manual_seed(0))
    dataset = DeviceDataset(("1", "2"), tuple(images[1:]), (steps, steps), tuple(labels[1:]))  # type: ignore[arg-type]
    prior = fit_location_prior(dataset, len(CLASSES))
    tensors = checkpoint.pack("modules.network", network.state_dict())
    classes = [{"id": each.id, "name": each.name} for each in CLASSES]
    card = {"kind": "finetune", "plan": asdict(PLAN), "classes": classes}
    checkpoint.save(folder / "network.safetensors", {**tensors, **(tensors_of(prior) if prior else {})}, card)


def trained_on(folder: Path) -> Trained:
    """The network of `make`."""
    return Trained.of(folder / "network.safetensors", "network", "cpu")


def scan_of(folder: Path, slices: int) -> np.ndarray:
    """The middle slices of the scan, memory-mapped, (slices, SIDE, SIDE)."""
    scan = np.load(folder / "scan.npy", mmap_mode="r")
    first = (len(scan) - slices) // 2
    return scan[first : first + slices]


def ours(trained: Trained, scan: np.ndarray) -> np.ndarray:
    """Labels of this program, uint8 (slices, rows, columns)."""
    keep_freed_memory()  # as in every job
    return segment(
        trained.network, trained.plan, [scan], SPACING, CPU, location_prior=trained.location_prior
    )[0]


@torch.inference_mode()
def monai(roi: int, overlap: float, batch: int, trained: Trained, scan: np.ndarray) -> np.ndarray:
    """Labels of MONAI's sliding windows over slices, in all orientations, uint8 (slices, rows, columns)."""
    image = torch.from_numpy(scan.astype(np.float32))
    total: Tensor | None = None
    orders = axis_orders(trained.plan, SPACING)
    for axis in (order[0] for order in orders):
        index = (torch.arange(image.shape[axis] + 2) - 1).clamp(0, image.shape[axis] - 1)
        neighbours = image.index_select(axis, index).unfold(axis, 3, 1).movedim(-1, 0)[None]
        size = [min(roi, length) for number, length in enumerate(image.shape) if number != axis]
        inferer = SliceInferer(axis, size, batch, overlap, mode="gaussian", progress=True)
        scores = inferer(neighbours, lambda windows: trained.network(windows).softmax(1))
        assert isinstance(scores, Tensor)
        total = scores if total is None else total.add_(scores)
        del scores, neighbours
    assert total is not None
    return total[0].argmax(0).to(torch.uint8).numpy()


CONTENDERS: dict[str, tuple[str, Callable[[Trained, np.ndarray], np.ndarray]]] = {
    "ours": ("this program, smoothing, location prior and thresholds", ours),
    "windows": (
        f"MONAI, windows of {PLAN.patch_vox[1]} x {PLAN.patch_vox[2]}, overlap {OVERLAP}",
        lambda trained, scan: monai(PLAN.patch_vox[1], OVERLAP, BATCH, trained, scan),
    ),
    "slices": (
        "MONAI, whole slices as windows, no overlap",
        lambda trained, scan: monai(max(scan.shape), 0.0, 1, trained, scan),
    ),
}


def measure(folder: Path, name: str, slices: int) -> dict[str, float]:
    """Seconds, of all cores together, too, and peak memory in GiB of a contender in this process."""
    trained, scan = trained_on(folder), scan_of(folder, slices)
    begin, used = time.perf_counter(), time.process_time()
    labels = CONTENDERS[name][1](trained, scan)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - used
    found = float((labels > 0).mean())
    return {"seconds": seconds, "cpu": cpu, "gib": environment.peak_memory() / 2**30, "foreground": found}


def whole_at_once(trained: Trained, scan: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Labels by the plainest program: everything is an array of the whole scan.

    Args:
        trained: A 2.5D network of one channel.
        scan: The scan in work order, (slices, rows, columns) float, on the grid of the plan.
        spacing: Voxel spacing in mm in work order.

    Returns:
        Class numbers, uint8 (slices, rows, columns).
    """
    return _decided(trained, _scores_of_whole(trained, scan, spacing), spacing, rounded=True)


@torch.inference_mode()
def _scores_of_whole(trained: Trained, scan: np.ndarray, spacing: Sequence[float]) -> list[Tensor]:
    """Scores (slices, 1 + K, rows, columns) of each orientation, smoothed across its slices."""
    image = torch.from_numpy(np.asarray(scan, np.float32))
    context, found = trained.plan.patch_vox[0], []
    for order in axis_orders(trained.plan, spacing):
        turned = image.permute(order)
        repeated = [*turned[:1]] * (context // 2) + [*turned] + [*turned[-1:]] * (context // 2)
        slices = []
        for number in range(len(turned)):
            padded = F.pad(torch.stack(repeated[number : number + context])[None], (MARGIN,) * 4, "replicate")
            slices.append(trained.network(padded).softmax(1)[..., MARGIN:-MARGIN, MARGIN:-MARGIN])
        scores, steps = torch.cat(slices), [spacing[axis] for axis in order]
        weight = math.exp(-0.5 / (0.7 * min(steps[1:]) / steps[0]) ** 2)
        around = torch.cat([scores[:1], scores[:-1]]) + torch.cat([scores[1:], scores[-1:]])
        scores = (scores + weight * around) / (1 + 2 * weight)
        found.append(scores.movedim(1, -1).permute(*np.argsort(order).tolist(), 3).movedim(-1, 1))
    return found


@torch.inference_mode()
def _decided(
    trained: Trained, scores: Sequence[Tensor], spacing: Sequence[float], rounded: bool
) -> np.ndarray:
    """Labels of the mean of scores, each (slices, 1 + K, rows, columns), rounded to 16 bits or not."""
    each = score_volume.ONE // len(scores)
    total = torch.stack([(one * each).round() if rounded else one * each for one in scores]).sum(0)
    decision = DiceOptimalLabels(len(total))
    smoothed = _smoothed_in_mm(total / score_volume.ONE, trained.plan.smoothing_sigma_mm, spacing)
    decision.add(smoothed)
    if trained.location_prior is not None:
        decision.apply_prior(trained.location_prior, spacing)
    return decision.labels().numpy()


def _smoothed_in_mm(scores: Tensor, sigma_mm: float, spacing: Sequence[float]) -> Tensor:
    """Posterior smoothing of scores (slices, 1 + K, rows, columns) by one Gaussian matrix for each axis."""
    if not sigma_mm:
        return scores
    blurred = scores[:, 1:].double()
    for axis, step in zip((0, 2, 3), spacing, strict=True):
        position = torch.arange(scores.shape[axis], dtype=torch.float64) * (step / sigma_mm)
        distance = (position[:, None] - position).abs()
        weights = torch.exp(-0.5 * distance.square()) * (distance <= TRUNCATE)
        blurred = torch.tensordot(blurred, weights, ([axis], [0])).movedim(-1, axis)
    shares = blurred / blurred.sum(1, keepdim=True).clamp(min=1e-300)
    return torch.cat([scores[:, :1], scores[:, 1:].sum(1, keepdim=True) * shares.float()], 1)


def compare(folder: Path, slices: int) -> dict[str, float]:
    """Differing voxels between labels in slabs and those of the whole scan at once, with every option on."""
    trained, scan = trained_on(folder), scan_of(folder, slices)
    assert trained.location_prior is not None
    in_memory = ours(trained, scan)
    score_volume.MEMORY_BYTES = 0
    in_file = ours(trained, scan)
    # On one thread, as the program computes a slice: with two, torch's channels-last batch norm adds up its
    # pixels in another order, and a score may differ by 0.001.
    with one_thread():
        scores = _scores_of_whole(trained, scan, SPACING)
    whole, unrounded = (_decided(trained, scores, SPACING, rounded) for rounded in (True, False))
    return {
        "voxels": scan.size,
        "foreground": float((whole > 0).mean()),
        "in memory": int((in_memory != whole).sum()),
        "in a file": int((in_file != whole).sum()),
        "without rounding": int((in_file != unrounded).sum()),
    }


def in_a_process(folder: Path, *command: str) -> dict[str, float]:
    """What this script prints as JSON for a command, run in a process of its own."""
    print(" ".join(command), "...", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, __file__, "--folder", str(folder), *command],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result: dict[str, float] = json.loads(done.stdout or "{}")
    print(result, file=sys.stderr, flush=True)
    return result


def report(folder: Path, slices: int, names: Sequence[str]) -> str:
    """Run everything; the page as Markdown."""
    if not (folder / "network.safetensors").exists():
        in_a_process(folder, "--make")
    rows = {name: in_a_process(folder, "--one", name, "--slices", str(slices)) for name in names}
    same = in_a_process(folder, "--compare", "--slices", str(SMALL if slices >= SMALL else slices))
    first = rows[names[0]]["seconds"]
    commit = environment.commit() or "unknown"
    lines = [
        f"`python benchmarks/full_size.py{'' if slices == FULL else f' --slices {slices}'}`, "
        f"{time.strftime('%d %B %Y')}; {environment.processor()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads; torch {torch.__version__}; commit {commit}; "
        f"{SIDE} x {SIDE} x {slices} voxels, "
        f"{len(CLASSES)} classes, {len(axis_orders(PLAN, SPACING))} orientations.",
        "",
        "| | seconds | relative to this program | CPU seconds | peak memory, GiB |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(
            f"| {CONTENDERS[name][0]} | {row['seconds']:.0f} | {row['seconds'] / first:.2f} "
            f"| {row['cpu']:.0f} | {row['gib']:.2f} |"
            for name, row in rows.items()
        ),
        "",
        f"Voxels of {same['voxels']:,} (foreground {100 * same['foreground']:.0f} %) that differ from the "
        "labels of the whole scan at once, with two orientations, smoothing, location prior and thresholds:",
        "",
        "| | |",
        "| --- | ---: |",
        f"| scores in memory | {same['in memory']} |",
        f"| scores in a file | {same['in a file']} |",
        f"| against scores that are not rounded to 16 bits | {same['without rounding']} |",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help=f"{SMALL} slices instead of {FULL}")
    parser.add_argument("--slices", type=int, default=FULL)
    parser.add_argument("--only", nargs="*", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    parser.add_argument(
        "--folder", type=Path, help="keep scan and network here, and use those of an earlier run"
    )
    for name in ("--make", "--compare"):
        parser.add_argument(name, action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    slices = SMALL if options.small else options.slices
    if options.make:
        make(options.folder)
    elif options.compare:
        print(json.dumps(compare(options.folder, slices)))
    elif options.one:
        print(json.dumps(measure(options.folder, options.one, slices)))
    else:
        with tempfile.TemporaryDirectory() as folder:
            text = report(options.folder or Path(folder), slices, options.only)
        print(text)
        if options.out:
            options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
