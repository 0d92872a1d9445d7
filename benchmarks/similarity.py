"""How long a click on cached features takes: python benchmarks/similarity.py

Writes features of a scan of 256 x 256 x 128 voxels as `medssl features` would (grid and width are the
engine's), then asks for the similarity of random voxels, on the slice shown and in the whole volume.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from medssl import checkpoint
from medssl.features import WIDTH, grid_step
from medssl.project import Project
from medssl.similarity import open_features, query_at, similarity, similarity_slice, write_features
from rich.console import Console
from rich.table import Table

SHAPE_XYZ = (256, 256, 128)


def milliseconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    begin = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - begin)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clicks", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.nii.gz"
        nib.save(nib.Nifti1Image(random.normal(size=SHAPE_XYZ).astype(np.float32), np.eye(4)), path)
        project = Project.create(Path(folder) / "project")
        scan = project.add_scan(path)
        shape = scan.geometry.shape_zyx
        step = grid_step(shape)
        cells = [-(-length // each) for length, each in zip(shape, step, strict=True)]
        vectors = random.normal(size=(*cells, WIDTH)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
        run = project.new_run("pretrain", {}, "pgl")
        checkpoint.save(run.checkpoint, {"none": torch.zeros(1)}, {"kind": "pretrain"})
        write_features(project, scan.id, run.id, vectors.astype(np.float16), step)

        on_slice, in_volume = [], []
        for _ in range(options.clicks):
            voxel = tuple(int(random.integers(length)) for length in shape)
            cache = open_features(project, scan.id, run.id)
            query = query_at(cache, voxel)
            axis = int(random.integers(3))
            on_slice.append(milliseconds(lambda: similarity_slice(cache, query, axis, voxel[axis])))  # noqa: B023
            in_volume.append(milliseconds(lambda: similarity(cache, query)))  # noqa: B023
    table = Table(title=f"A click on {' x '.join(map(str, cells))} cells of {WIDTH} numbers, milliseconds")
    for name in ("", "median", "slowest", "goal"):
        table.add_column(name, justify="right")
    for name, times, goal in (("slice", on_slice, 200), ("volume", in_volume, 1000)):
        table.add_row(name, f"{statistics.median(times):.0f}", f"{max(times):.0f}", str(goal))
    Console().print(table)


if __name__ == "__main__":
    main()
