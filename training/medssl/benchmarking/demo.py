"""The demo: the whole loop without a person, on made-up CT scans or on a data set of your own.

A simulated annotator completes ten slices on two scans; the network is fine-tuned on them from random
weights, from those that ship, and from these after a pre-training on the scans (protocol.py),
predicts the test scans and is compared with the reference. Everything that comes of it lies in one folder:

    phantoms/         the made-up scans and their labels (without a data set of your own)
    project/          the project folder, which the viewer opens
    results_log.jsonl       one line for each method and seed that is finished
    predictions/      the segmentations as NIfTI
    dice.md dice.json dice.png dice-over-time.png overlay.png similarity.png curves.png
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl.benchmarking import experiment, protocol, results_log
from medssl.benchmarking.dataset import read_dataset
from medssl.benchmarking.experiment import Work
from medssl.benchmarking.protocol import Material
from medssl.benchmarking.report import title
from medssl.benchmarking.results_log import Cell
from medssl.core.errors import UserError
from medssl.core.events import Emit, Progress
from medssl.core.export.files import export_scan
from medssl.core.files import read_json, write_json
from medssl.core.project.project import Project, is_project

COMPARED = "random,shapes,shapes+supervoxels"
"""What a demo compares unless it is told otherwise."""
PHANTOMS = 8
"""Scans that the demo makes: two for testing, two to annotate, four only to pre-train on."""

Say = Callable[[str], None]
"""Shows one line of text."""


@dataclass(frozen=True)
class Demo:
    """What is asked for."""

    out: Path
    data: Path | None
    """Folder in MSD layout; None makes phantoms."""
    methods: tuple[str, ...]
    """As medssl.benchmarking.protocol names them: "random", "shapes", "shapes+pgl", "pgl:none"."""
    seeds: tuple[int, ...]
    settings: protocol.Settings

    @property
    def wanted(self) -> list[tuple[str, int]]:
        """All cells, seed by seed, so that a study that is stopped can be compared as far as it went."""
        return [(method, seed) for seed in self.seeds for method in self.methods]


def prepare(demo: Demo, say: Say, emit: Emit) -> Material:
    """Make the phantoms if they are wanted, and a project of all scans; what is there already is kept.

    Raises UserError ("other-demo") where the folder holds a demo on other scans.
    """
    made = [demo.seeds[0] * PHANTOMS + index for index in range(PHANTOMS)]
    # Which scans this folder's demo is about.
    identity: dict[str, Any] = {"phantoms": made} if demo.data is None else {"data": str(demo.data.resolve())}
    note = demo.out / "demo.json"
    if note.exists() and read_json(note) != identity:
        raise UserError(
            f"{demo.out} holds a demo on other scans; choose another folder with --out or delete it.",
            code="other-demo",
        )
    write_json(note, identity)
    if demo.data is None:
        folder = demo.out / "phantoms"
        if not (folder / "dataset.json").exists():
            from medssl.core.phantom import write_dataset

            say(f"Making {PHANTOMS} CT scans of people who do not exist")
            write_dataset(folder, made)
    else:
        folder = demo.data
    dataset = read_dataset(folder)
    root = demo.out / "project"
    project = Project.open(root) if is_project(root) else Project.create(root, dataset.classes)
    return protocol.gather(project, dataset, lambda done: emit(Progress("reading scans", done)))


def run(demo: Demo, material: Material, work: Work, say: Say) -> list[Cell]:
    """Run all cells that are not finished yet; returns the finished ones.

    A cell that is stopped (experiment.Stopped) ends the demo; running it again begins with that cell.
    """
    path = demo.out / "cells.jsonl"
    known = results_log.read_cells(path)
    wanted = demo.wanted
    done: list[Cell] = []
    for position, (method, seed) in enumerate(wanted, 1):
        name = f"{position} of {len(wanted)}: {title(method)}, seed {seed}"
        settings = demo.settings.concerning(method)
        cell = results_log.finished(known, material.dataset.name, method, seed, settings)
        if cell is not None:
            say(f"{name} (finished before)")
        else:
            say(name)
            try:
                cell = experiment.run_cell(material, method, seed, demo.settings, work)
            except experiment.Stopped:
                break
            results_log.append(path, cell)
            say(f"Dice {cell.dice:.3f}")
        done.append(cell)
    return done


def export(demo: Demo, material: Material, finished: Sequence[Cell]) -> None:
    """Write the cells' predictions of the test scans as NIfTI, each on its scan's grid."""
    for cell in finished:
        folder = demo.out / "predictions" / f"{cell.method.replace(':', '-')}-seed{cell.seed}"
        for scan_id in material.references:
            path = folder / f"{scan_id}.nii.gz"
            if not path.exists():
                export_scan(material.project, scan_id, cell.runs["finetune"], path)
