"""Dice with both channels of a scan, and with either alone: python benchmarks/channels.py

Synthetic scans have two channels with bright blobs. The structure to segment is what is bright in both; most
blobs are bright in one of them only. Two scans have a few complete slices, the others are held out and
measured.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from medssl import engine
from medssl.benchmarking.report import markdown_table
from medssl.benchmarking.simulated_annotator import annotate, choose_slices
from medssl.core.jobs import FinetuneJob
from medssl.core.labels import metrics
from medssl.core.project.project import LabelClass, Project

SHAPE, CELL = (16, 48, 48), (8, 12, 12)
BOTH, ALONE = 3, 10
"""Number of blobs that are bright in both channels, and in each of them alone."""
ANNOTATED, HELD_OUT, SLICES = 2, 3, 6
CHANNELS = ("t1", "t2")


def phantom(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two channels (Z, Y, X) float32, and labels uint8 of what is bright in both."""
    random = np.random.default_rng(seed)
    images = random.normal(0, 0.2, (2, *SHAPE)).astype(np.float32)
    labels = np.zeros(SHAPE, np.uint8)
    counts = [length // edge for length, edge in zip(SHAPE, CELL, strict=True)]
    cells = random.permutation(int(np.prod(counts)))[: BOTH + 2 * ALONE]
    index = np.indices(SHAPE).reshape(3, -1).T
    for number, cell in enumerate(cells):
        radius = random.uniform(2.5, 3.5)
        room = np.array(CELL) / 2 - radius
        corner = np.array(np.unravel_index(cell, counts)) * CELL
        centre = corner + (np.array(CELL) - 1) / 2 + random.uniform(-room, room)
        blob = (np.linalg.norm(index - centre, axis=1) <= radius).reshape(SHAPE)
        in_both = number < BOTH
        for channel, image in enumerate(images):
            if in_both or (number - BOTH) % 2 == channel:
                image[blob] += 1.5
        labels[blob] = in_both
    return images[0], images[1], labels


def make_project(folder: Path) -> tuple[Project, dict[str, np.ndarray]]:
    """A project with the scans, and the labels of those that are held out."""
    project = Project.create(folder / "project", (LabelClass(1, "structure", "#ff9e64"),))
    truth = {}
    for seed in range(ANNOTATED + HELD_OUT):
        *images, labels = phantom(seed)
        paths = [folder / f"p{seed}_{name}.nii" for name in CHANNELS]
        for path, image in zip(paths, images, strict=True):
            nib.save(nib.Nifti1Image(image.T, np.eye(4)), path)
        held_out = seed >= ANNOTATED
        scan = project.add_scan(paths[0], held_out, "mr", name=f"p{seed}", channel=CHANNELS[0])
        project.add_channel(scan.id, paths[1], CHANNELS[1], "mr")
        if held_out:
            truth[scan.id] = labels
        else:
            project.save_annotation(scan.id, annotate(labels, choose_slices(labels, SLICES, 0), 0))
    return project, truth


def dice(
    project: Project, truth: dict[str, np.ndarray], channels: tuple[str, ...], steps: int, **settings: Any
) -> float:
    """Mean Dice of the held-out scans after a fine-tuning from the shipped weights.

    Args:
        project: The project.
        truth: {held-out scan: labels}.
        channels: Channels that the network takes.
        steps: Steps of the training.
        settings: Further settings of the job.
    """
    settings = {"channel_names": list(channels), "threads": 1, "precision": "fp32", **settings}
    job = FinetuneJob(
        str(project.root), device="cpu", steps=steps, settings=settings, predict_scans=tuple(truth)
    )
    run = engine.run(job, lambda event: None, lambda: False)["run"]
    predicted = {scan: project.prediction(run, scan) for scan in truth}
    return statistics.fmean(metrics.dice(predicted[scan], truth[scan], [1])[1] for scan in truth)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=120)
    steps = parser.parse_args().steps
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        project, truth = make_project(Path(folder))
        for channels in (CHANNELS, *((name,) for name in CHANNELS)):
            begin = time.perf_counter()
            value = dice(project, truth, channels, steps)
            seconds = time.perf_counter() - begin
            rows.append([" + ".join(channels), f"{value:.2f}", f"{seconds:.0f}"])
    print(markdown_table(["channels", "Dice", "seconds"], rows))


if __name__ == "__main__":
    main()
