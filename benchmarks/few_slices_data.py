"""The data sets of benchmarks/few_slices.py, and their projects."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from medssl.benchmarking.dataset import TEST_EVERY, read_dataset
from medssl.benchmarking.protocol import Material, gather
from medssl.core.events import Emit, Progress
from medssl.core.project.project import Project

DATA = Path(os.environ.get("MEDSSL_DATA") or Path(__file__).parents[2] / "shared" / "data")
"""Folder of the data sets, unless an option names another."""


@dataclass(frozen=True)
class Source:
    """Where a data set of the grid comes from."""

    folder: str
    """Under --data, in MSD layout; phantoms are generated under --work."""
    test_every: int = TEST_EVERY
    """Every n-th of the sorted labelled scans is a test scan."""
    phantoms: range | None = None
    """Seeds of the phantoms."""


DATASETS: Mapping[str, Source] = {
    "hippocampus": Source("Task04_Hippocampus"),
    "ct": Source("HeadNeckCT_OpenKBP", test_every=3),
    "prostate": Source("ProstateMR_DeepReg"),
}


def open_dataset(data: Path, name: str, work: Path, emit: Emit, source: Source | None = None) -> Material:
    """Open the project of a data set in the work folder; create it if it does not exist.

    Args:
        data: Folder of the data sets.
        name: Name of the data set.
        work: Folder of the projects.
        emit: Receives progress events.
        source: Where the scans come from; by default that of `name` in DATASETS.

    Raises:
        UserError: "missing", and those of `read_dataset`.
    """
    source = source or DATASETS[name]
    folder = data / source.folder
    if source.phantoms is not None:
        folder = work / source.folder
        if not (folder / "dataset.json").exists():  # written last
            from medssl.core.phantom import write_dataset

            write_dataset(folder, source.phantoms)
    dataset = replace(read_dataset(folder), name=name)
    root = work / name
    project = Project.create(root, dataset.classes, or_open=True)
    return gather(project, dataset, lambda done: emit(Progress("Reading scans", done)), source.test_every)
