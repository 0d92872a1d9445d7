"""Rows of the tables of benchmarks/few_slices.py: results with comparable settings, grouped by method."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any

from medssl.benchmarking.protocol import RANDOM, Combination, Settings
from medssl.benchmarking.report import title
from medssl.benchmarking.results_log import Cell, Failure
from medssl.core.methods import METHODS
from peers import PEERS

SLICES, SEEDS = (5, 10, 20), (0, 1, 2)
GRID = (RANDOM, f"{RANDOM}:none", f"{RANDOM}:pseudo_contrast", *METHODS, *PEERS)
"""Methods of the grid: those without results are shown as not run. Tables with pre-training on top list our
methods only."""

NAMES = {
    "forest": "random forest",
    "forest+position": "random forest with position",
    "interpolation": "shape-based interpolation",
    "nnunet_2d": "nnU-Net 2d",
    "nnunet_3d_fullres": "nnU-Net 3d_fullres",
}


@dataclass(frozen=True)
class Setting:
    """Settings of a table: results with different ones cannot be compared."""

    dataset: str
    judge: str
    minutes: float
    device: str
    pretrain_minutes: float
    """In addition to `minutes`; 0 if they are part of these."""

    @classmethod
    def of(cls, line: Cell | Failure) -> Setting:
        """The setting of a result."""
        settings = line.settings
        times = settings["minutes"], settings["device"], settings["pretrain_minutes"]
        return cls(line.dataset, settings["judge"], *times)

    def includes(self, line: Cell | Failure) -> bool:
        """Whether a result belongs into this table.

        Methods without pre-training belong into all tables of their fine-tuning time.
        """
        setting = Setting.of(line)
        without_pretraining = line.method in PEERS or Combination.of(line.method).weights == RANDOM
        if without_pretraining:
            setting = replace(setting, pretrain_minutes=self.pretrain_minutes)
        return setting == self


def settings_of(cells: Sequence[Cell], order: Sequence[str]) -> list[Setting]:
    """The tables that the cells need: data sets in the given order, longest fine-tuning first.

    Cells without pre-training get a table of their own only if no other table includes them.
    """
    pretrained = {each for each in map(Setting.of, cells) if each.pretrain_minutes}
    others = {Setting.of(cell) for cell in cells if not any(each.includes(cell) for each in pretrained)}
    return sorted(
        pretrained | others,
        key=lambda each: (
            each.judge, order.index(each.dataset), -each.minutes, each.pretrain_minutes, each.device
        ),
    )  # fmt: skip


@dataclass(frozen=True)
class Row:
    """Results of one method with one number of slices."""

    name: str
    slices: int
    cells: dict[int, Cell]
    """By seed."""
    failures: dict[int, Failure]
    """By seed."""
    baseline: str
    """Name of the row of random weights, fine-tuned in the same way if there is one."""


def newest(lines: Iterable[Cell | Failure]) -> tuple[list[Cell], list[Failure]]:
    """The newest result of each cell, and the failures of cells that never succeeded afterwards."""
    cells: dict[Any, Cell] = {}
    failures: dict[Any, Failure] = {}
    for line in sorted(lines, key=lambda line: datetime.fromisoformat(line.date)):
        if isinstance(line, Cell):
            cells[line.key] = line
            failures.pop(line.key, None)
        elif line.key not in cells:
            failures[line.key] = line
    return list(cells.values()), list(failures.values())


def rows_of(setting: Setting, cells: Sequence[Cell], failures: Sequence[Failure]) -> list[Row]:
    """All rows of a table: the methods of the grid in order, each followed by its variants."""
    included = [cell for cell in cells if setting.includes(cell)]
    failed = [failure for failure in failures if setting.includes(failure)]
    grid = (RANDOM, *METHODS) if setting.pretrain_minutes else GRID
    methods = sorted(dict.fromkeys([*grid, *(line.method for line in (*included, *failed))]), key=_rank)
    grid_names = [plain_name(method) for method in grid]
    slice_counts = {cell.settings["slices"] for cell in included}
    slice_counts.update(() if setting.pretrain_minutes else SLICES)
    baselines: dict[str, str] = {}
    for method in methods:
        variants = [name_of(line) for line in (*included, *failed) if line.method == method]
        weights, _, semi_supervised = method.partition(":")
        same = f"{RANDOM}:{semi_supervised}" if semi_supervised and weights != RANDOM else RANDOM
        baseline = plain_name(same if same in methods else RANDOM)
        baselines.update(dict.fromkeys([plain_name(method), *variants], baseline))
    rows = []
    for name, slices in itertools.product(baselines, sorted(slice_counts)):
        key = (name, slices)
        row = Row(
            name,
            slices,
            {cell.seed: cell for cell in included if (name_of(cell), cell.settings["slices"]) == key},
            {each.seed: each for each in failed if (name_of(each), each.settings["slices"]) == key},
            baselines[name],
        )
        # Variants are not part of the grid, so they are never shown as not run.
        if name in grid_names or row.cells or row.failures:
            rows.append(row)
    return rows


def _rank(method: str) -> int:
    """Rank of a method in the table; methods with the same weights are adjacent."""
    weights = method.partition(":")[0]
    order = [RANDOM, *METHODS, *PEERS]
    return order.index(weights) if weights in order else len(order)


def plain_name(method: str) -> str:
    """Display name of a method with default settings."""
    return NAMES.get(method, title(method))


def name_of(line: Cell | Failure) -> str:
    """Display name of the method of a result, with all settings that differ from the defaults."""
    name = plain_name(line.method)
    if line.method in PEERS:
        return name
    defaults = Settings(0, 0, pretrain_minutes=line.settings["pretrain_minutes"]).concerning(line.method)
    changed = []
    for each in fields(Settings):
        value = line.settings.get(each.name, getattr(defaults, each.name))
        if each.name in ("slices", "minutes", "device", "judge") or value == getattr(defaults, each.name):
            continue
        if isinstance(value, dict):
            changed += [f"{each.name}.{setting}={item}" for setting, item in value.items()]
        else:
            changed.append(f"{each.name}={value}")
    return ", ".join([name, *changed])
