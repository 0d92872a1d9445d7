"""The lines of benchmarks/few_slices.py put in order: settings that may be compared, and rows of a table."""

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
WANTED = (RANDOM, f"{RANDOM}:none", f"{RANDOM}:pseudo_contrast", *METHODS, *PEERS)
"""The grid: what has no line in it is shown as not run. Where pre-training comes on top, our methods are."""

NAMES = {
    "forest": "random forest",
    "forest+position": "random forest with position",
    "interpolation": "shape-based interpolation",
    "nnunet_2d": "nnU-Net 2d",
    "nnunet_3d_fullres": "nnU-Net 3d_fullres",
}


@dataclass(frozen=True)
class Setting:
    """What tables are kept apart by: lines of different settings are no comparison."""

    dataset: str
    judge: str
    minutes: float
    device: str
    pretrain_minutes: float
    """On top of `minutes`; 0 where they are a part of these."""

    @classmethod
    def of(cls, line: Cell | Failure) -> Setting:
        """Under which setting a line was made."""
        settings = line.settings
        times = settings["minutes"], settings["device"], settings["pretrain_minutes"]
        return cls(line.dataset, settings["judge"], *times)

    def takes(self, line: Cell | Failure) -> bool:
        """Whether the line stands in this table; what is not pre-trained does so in each of its minutes."""
        own = Setting.of(line)
        plain = line.method in PEERS or Combination.of(line.method).weights == RANDOM
        return (replace(own, pretrain_minutes=self.pretrain_minutes) if plain else own) == self


def settings_of(cells: Sequence[Cell], order: Sequence[str]) -> list[Setting]:
    """The tables that the cells need, data sets in this order, the longest first.

    Cells that are not pre-trained have none of their own where others stand beside them.
    """
    on_top = {each for each in map(Setting.of, cells) if each.pretrain_minutes}
    others = {Setting.of(cell) for cell in cells if not any(each.takes(cell) for each in on_top)}
    return sorted(
        on_top | others,
        key=lambda each: (
            each.judge, order.index(each.dataset), -each.minutes, each.pretrain_minutes, each.device
        ),
    )  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One method and number of slices."""

    name: str
    slices: int
    cells: dict[int, Cell]
    """By seed."""
    failures: dict[int, Failure]
    against: str
    """Name of the row it is compared with: random weights, fine-tuned in the same way if there are such."""


def newest(lines: Iterable[Cell | Failure]) -> tuple[list[Cell], list[Failure]]:
    """The newest line of each cell; failures that nothing later made good."""
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
    """All rows of a table: the grid's methods first, those with other settings after their own."""
    here = [cell for cell in cells if setting.takes(cell)]
    failed = [failure for failure in failures if setting.takes(failure)]
    wanted = (RANDOM, *METHODS) if setting.pretrain_minutes else WANTED
    known = sorted(dict.fromkeys([*wanted, *(line.method for line in (*here, *failed))]), key=_place)
    asked = [plain_name(method) for method in wanted]
    amounts = {cell.settings["slices"] for cell in here}
    amounts.update(() if setting.pretrain_minutes else SLICES)
    against: dict[str, str] = {}
    for method in known:
        named = [plain_name(method), *(name_of(line) for line in (*here, *failed) if line.method == method)]
        weights, _, semi_supervised = method.partition(":")
        same = f"{RANDOM}:{semi_supervised}" if semi_supervised and weights != RANDOM else RANDOM
        against.update(dict.fromkeys(named, plain_name(same if same in known else RANDOM)))
    rows = []
    for name, slices in itertools.product(against, sorted(amounts)):
        place = (name, slices)
        row = Row(
            name,
            slices,
            {cell.seed: cell for cell in here if (name_of(cell), cell.settings["slices"]) == place},
            {each.seed: each for each in failed if (name_of(each), each.settings["slices"]) == place},
            against[name],
        )
        # Variants are no part of the grid: what nobody asked for is not missing.
        if name in asked or row.cells or row.failures:
            rows.append(row)
    return rows


def _place(method: str) -> int:
    """A method's place in the table: all with the same weights side by side."""
    weights = method.partition(":")[0]
    order = [RANDOM, *METHODS, *PEERS]
    return order.index(weights) if weights in order else len(order)


def plain_name(method: str) -> str:
    """The method in words, under its usual settings."""
    return NAMES.get(method, title(method))


def name_of(line: Cell | Failure) -> str:
    """The method in words, with whatever differs from the usual settings."""
    name = plain_name(line.method)
    if line.method in PEERS:
        return name
    usual = Settings(0, 0, pretrain_minutes=line.settings["pretrain_minutes"]).concerning(line.method)
    changed = []
    for each in fields(Settings):
        value = line.settings.get(each.name, getattr(usual, each.name))
        if each.name in ("slices", "minutes", "device", "judge") or value == getattr(usual, each.name):
            continue
        if isinstance(value, dict):
            changed += [f"{each.name}.{setting}={item}" for setting, item in value.items()]
        else:
            changed.append(f"{each.name}={value}")
    return ", ".join([name, *changed])
