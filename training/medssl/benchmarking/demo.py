"""The demo: the whole workflow with a simulated annotator, on synthetic CT scans or on a data set.

The annotator completes ten slices on two scans. The network is fine-tuned on them from random weights, from
the shipped weights, and from these after a pre-training on the scans (protocol.py). Its predictions of the
test scans are compared with the reference labels. All results are written to one folder:

    phantoms/         the synthetic scans and their labels (not with a data set)
    project/          the project folder, which the viewer opens
    cells.jsonl       one line for each finished method and seed
    predictions/      the segmentations as NIfTI
    dice.md dice.json dice.png dice-over-time.png overlay.png similarity.png curves.png
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from medssl.benchmarking import experiment, protocol, results_log
from medssl.benchmarking.dataset import read_dataset
from medssl.benchmarking.experiment import Work
from medssl.benchmarking.protocol import Material
from medssl.benchmarking.report import title
from medssl.benchmarking.results_log import Cell
from medssl.core.errors import UserError
from medssl.core.events import Emit, Progress
from medssl.core.export.files import export_scan
from medssl.core.files import make_folder
from medssl.core.json_files import read_json, write_json
from medssl.core.methods import METHODS
from medssl.core.project.project import Project
from medssl.core.shipped import RANDOM, SHAPES

COMPARED = "random,shapes,shapes+supervoxels"
"""Methods that the demo compares by default."""
PHANTOMS = 8
"""Number of synthetic scans: two for testing, two to annotate, four only for pre-training."""

PATCH, BATCH, STEP_S, MOST_TIMES = (3, 96, 96), 2, 0.05, 1.4
"""A step of these patches takes STEP_S on a fast processor; how much longer a row may take on a slow one."""

Say = Callable[[str], None]
"""Prints one line of text."""


@dataclass(frozen=True)
class Demo:
    """Options of a demo."""

    out: Path
    """Output folder."""
    data: Path | None
    """Folder in MSD layout; None makes phantoms."""
    methods: tuple[str, ...]
    """Names as in medssl.benchmarking.protocol: "random", "shapes", "shapes+pgl", "pgl:none"."""
    seeds: tuple[int, ...]
    settings: protocol.Settings

    @property
    def cells(self) -> list[tuple[str, int]]:
        """(method, seed) of all cells, ordered by seed, so that a stopped demo still compares methods."""
        return [(method, seed) for seed in self.seeds for method in self.methods]


def minutes_of_a_row(out: Path, fast: float, device: str) -> float:
    """Fine-tuning time of a row on synthetic scans: that of the demo in the folder, else for this machine.

    A slow processor, or one that other programs use, gets more time, but at most MOST_TIMES as much: the demo
    is meant to end within five minutes.

    Args:
        out: Output folder.
        fast: Minutes of a row where a step takes at most STEP_S.
        device: Where to train.
    """
    for cell in results_log.read_cells(out / "cells.jsonl"):
        minutes = cell.settings["minutes"]
        if fast <= minutes <= MOST_TIMES * fast:  # not those of --minutes
            return float(minutes)
    times = min(MOST_TIMES, max(1.0, _seconds_of_a_step(device) / STEP_S))
    return round(20 * fast * times) / 20


def _seconds_of_a_step(device: str) -> float:
    """Seconds of a training step of the network that ships, as it would be planned now."""
    from medssl.core.shipped import weights_file
    from medssl.nn import devices
    from medssl.nn.models.network_weights import load_network
    from medssl.tasks.plan import step_times

    chosen = devices.choose(device)
    precision: Literal["bf16", "fp32"] = "bf16" if devices.fast_bf16(chosen) else "fp32"
    plan = replace(
        load_network(weights_file())[1],
        patch_vox=PATCH,
        batch=BATCH,
        precision=precision,
        threads=devices.THREADS,
    )
    measured = step_times.measure([plan, replace(plan, threads=1)], chosen)
    return min(measured.values()) if measured else STEP_S


def check_methods(names: Sequence[str]) -> tuple[str, ...]:
    """The methods to compare, each once.

    Raises:
        UserError: "no-method" for an unknown one.
    """
    for name in names:
        pretraining = protocol.Combination.of(name).pretraining
        if pretraining is not None and pretraining not in METHODS:
            raise UserError(
                f"{name!r} is no method that can be compared; write {RANDOM}, {SHAPES}, one of "
                f"{', '.join(METHODS)}, or {SHAPES}+ and one of these.",
                code="no-method",
            )
    return tuple(dict.fromkeys(names))


def prepare(demo: Demo, say: Say, emit: Emit) -> Material:
    """Create the synthetic scans, unless the demo has a data set, and a project of all scans.

    Existing scans and an existing project are reused.

    Raises:
        UserError: "other-demo" if the folder holds a demo on other scans.
    """
    phantom_seeds = [demo.seeds[0] * PHANTOMS + index for index in range(PHANTOMS)]
    # Identifies the scans of the demo in this folder.
    identity: dict[str, Any] = (
        {"phantoms": phantom_seeds} if demo.data is None else {"data": str(demo.data.resolve())}
    )
    note = demo.out / "demo.json"
    if note.exists() and read_json(note) != identity:
        raise UserError(
            f"{demo.out} holds a demo on other scans; choose another folder with --out or delete it.",
            code="other-demo",
        )
    if demo.data is None:
        folder = demo.out / "phantoms"
        if not (folder / "dataset.json").exists():
            from medssl.core.phantom import write_dataset

            say(f"Creating {PHANTOMS} synthetic CT scans")
            write_dataset(folder, phantom_seeds)
    else:
        folder = demo.data
    dataset = read_dataset(folder)
    make_folder(demo.out)
    write_json(note, identity)  # only now: a wrong folder must not claim this one
    root = demo.out / "project"
    project = Project.create(root, dataset.classes, or_open=True)
    return protocol.gather(project, dataset, lambda done: emit(Progress("reading scans", done)))


def run(demo: Demo, material: Material, work: Work, say: Say) -> list[Cell]:
    """Run the cells that are not finished yet, until one is stopped (experiment.Stopped).

    Returns:
        All finished cells, including those of earlier runs.
    """
    path = demo.out / "cells.jsonl"
    logged = results_log.read_cells(path)
    cells = demo.cells
    done: list[Cell] = []
    for position, (method, seed) in enumerate(cells, 1):
        name = f"{position} of {len(cells)}: {title(method)}, seed {seed}"
        settings = demo.settings.concerning(method)
        cell = results_log.finished(logged, material.dataset.name, method, seed, settings)
        if cell is not None:
            say(f"{name} (already finished)")
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
    """Write the predictions of the test scans as NIfTI, on the grids of the scans."""
    for cell in finished:
        folder = demo.out / "predictions" / f"{cell.method.replace(':', '-')}-seed{cell.seed}"
        for scan_id in material.references:
            path = folder / f"{scan_id}.nii.gz"
            if not path.exists():
                export_scan(material.project, scan_id, cell.runs["finetune"], path)
