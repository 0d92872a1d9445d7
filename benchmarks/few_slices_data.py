"""The data sets of benchmarks/few_slices.py, and their projects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from medssl.benchmarking.dataset import TEST_EVERY, read_dataset
from medssl.benchmarking.protocol import Material, gather
from medssl.core.events import Emit, Progress
from medssl.core.project.project import Project, is_project


@dataclass(frozen=True)
class Source:
    """A data set of the grid."""

    folder: str
    """Under --data, in MSD layout; of phantoms under --work, where they are made."""
    test_every: int = TEST_EVERY
    """Every so many of the sorted labelled scans is a test scan."""
    phantoms: range | None = None
    """Seeds of made-up scans."""


DATASETS: Mapping[str, Source] = {
    "hippocampus": Source("Task04_Hippocampus"),
    "ct": Source("HeadNeckCT_OpenKBP", test_every=3),
    "prostate": Source("ProstateMR_DeepReg"),
}


def open_dataset(data: Path, name: str, work: Path, emit: Emit, source: Source | None = None) -> Material:
    """The data set's project in the work folder, made where it is missing.

    Raises UserError ("missing", ...) where the scans are not there.
    """
    source = source or DATASETS[name]
    folder = data / source.folder
    if source.phantoms is not None:
        folder = work / source.folder
        if not (folder / "dataset.json").exists():  # which is written last
            from medssl.core.phantom import write_dataset

            write_dataset(folder, source.phantoms)
    dataset = replace(read_dataset(folder), name=name)
    root = work / name
    project = Project.open(root) if is_project(root) else Project.create(root, dataset.classes)
    return gather(project, dataset, lambda done: emit(Progress("reading scans", done)), source.test_every)
