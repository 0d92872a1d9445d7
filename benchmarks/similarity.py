"""Time of a click on cached features: python benchmarks/similarity.py

Writes features of ten scans of 256 x 256 x 128 voxels with the grid and the width of `medssl features`, then
clicks random voxels. Measured are the map of one slice, the map of the whole scan, and a click in the viewer:
the map of the scan on the screen and the best match in all ten.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from medssl.core.features.retrieval import Point, query_of, search
from medssl.core.features.similarity import (
    open_features,
    query_at,
    similarity,
    similarity_slice,
    write_features,
)
from medssl.core.project.project import Project
from medssl.nn.models import checkpoint
from medssl.tasks.inference.feature_grid import grid_step
from medssl.tasks.inference.features import WIDTH
from rich.console import Console
from rich.table import Table

SHAPE_XYZ = (256, 256, 128)


def milliseconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    begin = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - begin)


def make_project(folder: Path, scans: int) -> tuple[Project, str]:
    """A project of scans that differ in one voxel only, with random features, and the features' run."""
    random = np.random.default_rng(0)
    project = Project.create(folder / "project")
    run = project.new_run("pretrain", {}, "pgl")
    checkpoint.save(run.checkpoint, {"none": torch.zeros(2_500_000)}, {"kind": "pretrain"})
    image = random.normal(size=SHAPE_XYZ).astype(np.float32)
    for number in range(scans):
        image[0, 0, 0] = number
        path = folder / "scan.nii"
        nib.save(nib.Nifti1Image(image, np.eye(4)), path)
        scan = project.add_scan(path)
        shape = scan.geometry.shape_zyx
        step = grid_step(shape)
        cells = [-(-length // each) for length, each in zip(shape, step, strict=True)]
        vectors = random.normal(size=(*cells, WIDTH)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
        write_features(project, scan.id, run.id, vectors.astype(np.float16), step)
    return project, run.id


def click(project: Project, run: str, scan: str, voxel: tuple[int, int, int]) -> None:
    """Run what the viewer's thread runs after a click."""
    query = query_of(project, run, [Point(scan, voxel)])
    similarity(open_features(project, scan, run), query.centre)
    matches = list(search(project, run, query, project.scans))
    assert len(matches) == len(project.scans)


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clicks", type=int, default=30)
    parser.add_argument("--scans", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random = np.random.default_rng(options.seed)
    on_slice, in_volume, in_all = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        project, run = make_project(Path(folder), options.scans)
        for number in range(options.clicks):
            scan = list(project.scans)[number % options.scans]
            cache = open_features(project, scan, run)
            z, y, x = (int(random.integers(length)) for length in cache.shape_zyx)
            query, axis = query_at(cache, (z, y, x)), int(random.integers(3))
            on_slice.append(milliseconds(partial(similarity_slice, cache, query, axis, (z, y, x)[axis])))
            in_volume.append(milliseconds(partial(similarity, cache, query)))
            in_all.append(milliseconds(partial(click, project, run, scan, (z, y, x))))
        cells = " x ".join(map(str, cache.array.shape[:3]))
    table = Table(title=f"A click on {cells} cells of {WIDTH} numbers, milliseconds")
    for name in ("", "median", "slowest", "goal"):
        table.add_column(name, justify="right")
    rows = (
        ("slice", on_slice, 200),
        ("volume", in_volume, 1000),
        (f"map and best match in all of {options.scans} scans", in_all, 1000),
    )
    for name, times, goal in rows:
        table.add_row(name, f"{statistics.median(times):.0f}", f"{max(times):.0f}", str(goal))
    Console().print(table)


if __name__ == "__main__":
    main()
