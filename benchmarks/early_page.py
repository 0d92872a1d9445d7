"""Page of benchmarks/early.py: a table for each data set, and curves."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from early_picture import Line, Panel, curves
from few_slices_page import measured, spread
from few_slices_rows import name_of, newest, plain_name
from medssl.benchmarking.protocol import ALL, RANDOM
from medssl.benchmarking.report import markdown_table
from medssl.benchmarking.results_log import Cell, Failure, mean, read_lines
from medssl.core.files import write_whole
from medssl.core.shipped import SHAPES
from peers import PEERS

MARK = "<!-- Everything below is written by: python benchmarks/early.py draw -->"
"""Text above this line is kept when the page is rewritten."""

GRID = (RANDOM, SHAPES, f"{SHAPES}+pgl", f"{SHAPES}+mae+pgl", "mae+pgl", "nnunet_2d")
SLICES = (1, 2, 3, 5, 10)
MIN_CORE_SHARE = 0.85
"""Fraction of a core; a fine-tuning that got less shared it with other programs."""
FIRST = ":first"
"""Suffix of a method's name: its first head alone, before any step."""

ABOUT = """\
Each line is one kind of initial weights and a number of annotated slices. Dice on the judged scans after some
seconds of fine-tuning: mean over scans of the mean over classes, then mean and sample standard deviation over
draws. *0 s* is before the first step, when only the first head has been fitted to the annotated voxels.
*First head alone* repeats this result, compared with random weights at later times. The learning rate
decreases over the whole fine-tuning, so a result at an earlier time is not that of a training of this length.
*Over random* is the paired difference to random weights that are fine-tuned in the same way: mean and sample
standard deviation; the number of pairs is in brackets if it is smaller than the number of draws. A draw is a
seed: it draws the annotated scans (one scan for one slice, otherwise two) and the crops. Pre-training on the
scans of the data set (*before*, minutes) ran once for all draws. Planning and segmentation do not count
towards the time. nnU-Net has no result before its first step. Of the lung scans, the same two are annotated
in all draws, which differ by crops only. *all*: every slice of every scan that is not judged, an upper bound.
The raw lines are next to this page, one per cell, with Dice of every scan and class at every time, all
settings, machine and commit."""


@dataclass(frozen=True)
class Setting:
    """Settings of a table: results with different ones cannot be compared."""

    dataset: str
    judge: str
    marks_s: tuple[float, ...]
    max_judged: int
    device: str

    @classmethod
    def of(cls, line: Cell | Failure) -> Setting:
        """The setting of a result."""
        settings = line.settings
        return cls(
            line.dataset,
            settings["judge"],
            tuple(settings["marks_s"]),
            settings["max_judged"],
            settings["device"],
        )

    @property
    def marks(self) -> list[str]:
        """Names of the marks in results."""
        return [f"{mark:g}" for mark in self.marks_s]

    @property
    def heading(self) -> str:
        """Heading of the table."""
        judged = "" if self.judge == "test" else f", judged on {self.judge} scans"
        subset = f", at most {self.max_judged} scans" if self.max_judged else ""
        return f"{self.dataset}, {self.device.upper()}{judged}{subset}"


@dataclass(frozen=True)
class Row:
    """Results of one kind of initial weights with one number of slices."""

    name: str
    slices: int
    baseline: str
    """Name of the row of random weights it is compared with."""
    peer: bool = False
    head_only: bool = False
    """Whether this is the first head alone, before any step."""
    cells: list[Cell] = field(default_factory=list)
    dice: dict[int, dict[str, float | None]] = field(default_factory=dict)
    """{seed: {mark: Dice}}."""

    def at(self, mark: str) -> list[float]:
        """Dice at a mark, of all draws that have one."""
        values = (of_draw.get(mark) for of_draw in self.dice.values())
        return [value for value in values if value is not None]

    def over(self, other: Row, mark: str) -> list[float]:
        """Paired differences to another row at a mark."""
        pairs = (
            (self.dice[seed].get(mark), other.dice[seed].get(mark))
            for seed in self.dice
            if seed in other.dice
        )
        return [value - baseline for value, baseline in pairs if value is not None and baseline is not None]


def draw(lines: Sequence[Path], page: Path, order: Sequence[str], slices: int) -> list[Path]:
    """Write the page and, beside it, the curves for one number of annotated slices.

    Args:
        lines: Files of results.
        page: Page to write.
        order: Data sets in order.
        slices: Number of annotated slices of the curves.

    Returns:
        All files that were written.
    """
    cells, failures = newest(itertools.chain.from_iterable(read_lines(path) for path in lines))
    results: list[Cell | Failure] = [*cells, *failures]
    settings = sorted(
        {Setting.of(line) for line in results},
        key=lambda each: (each.judge, order.index(each.dataset), -max(each.marks_s), str(each)),
    )
    tables = {setting: rows_of(setting, cells) for setting in settings}
    text, made = [ABOUT, ""], [page]
    picture = page.with_suffix(".png")
    if panels := panels_of(tables, order, slices):
        title = f"Dice on {panels[0].judge} scans from {slices} annotated slice" + "s" * (slices > 1)
        curves(picture, panels, title)
        made.append(picture)
        text += [f"![{title}, over seconds of fine-tuning]({picture.name})", ""]
    for setting, rows in tables.items():
        text += _section(setting, rows, [each for each in failures if Setting.of(each) == setting])
    for dataset in order:
        if dataset not in {setting.dataset for setting in tables if setting.judge == "test"}:
            text += [f"## {dataset}", "", "Not run on its test scans.", ""]
    above = page.read_text(encoding="utf-8").partition(MARK)[0].rstrip() if page.exists() else "# Early"
    content = "\n".join([above + "\n", MARK, "", *text]).rstrip() + "\n"
    write_whole(page, lambda file: file.write(content.encode("utf-8")))
    return made


def rows_of(setting: Setting, cells: Iterable[Cell]) -> list[Row]:
    """All rows of a table by number of slices; shipped weights have a second one, the first head alone."""
    included = [cell for cell in cells if Setting.of(cell) == setting]
    methods = {cell.method for cell in included}
    rows: dict[tuple[str, int], Row] = {}
    for cell in sorted(included, key=lambda cell: (_slice_rank(cell.settings["slices"]), _rank(cell.method))):
        same = f"{RANDOM}:{cell.method.partition(':')[2]}"
        baseline = plain_name(same if same in methods else RANDOM)
        by_mark = {mark: each["dice"] for mark, each in cell.after_s.items()}
        versions = [(early_name(cell), by_mark, False)]
        if cell.method == SHAPES and "0" in by_mark:
            head_only = dict.fromkeys(setting.marks, by_mark["0"])
            versions.insert(0, (f"{early_name(cell)}, first head alone", head_only, True))
        for name, dice, is_head_only in versions:
            key = (name, cell.settings["slices"])
            row = rows.setdefault(key, Row(*key, baseline, cell.method in PEERS, is_head_only))
            row.cells.append(cell)
            row.dice[cell.seed] = dice
    return list(rows.values())


def early_name(line: Cell | Failure) -> str:
    """Display name of the initial weights of a result, with all settings that differ from the defaults."""
    before = line.settings["pretrain_minutes"]
    return name_of(line) + (f", {before:g} min" if before else "")


def _slice_rank(slices: int) -> float:
    return float("inf") if slices == ALL else slices


def _slice_text(slices: int) -> str:
    return "all" if slices == ALL else str(slices)


def _rank(method: str) -> tuple[int, str]:
    """Order of the methods: those of the grid, then others."""
    weights = method.partition(":")[0]
    return (GRID.index(weights) if weights in GRID else len(GRID), method)


def _section(setting: Setting, rows: Sequence[Row], failures: Sequence[Failure]) -> list[str]:
    """Heading, conditions, table, failures and missing cells."""
    later = [mark for mark in setting.marks if mark != "0"]
    heading = ["start", "slices", *(f"{mark} s" for mark in setting.marks)]
    heading += [f"over random, {mark} s" for mark in later]
    heading += ["draws", "before"]
    by_key = {(row.name, row.slices): row for row in rows}
    lines = [_line(row, setting.marks, later, by_key.get((row.baseline, row.slices))) for row in rows]
    reasons = Counter(
        f"{early_name(each)}, {_slice_text(each.settings['slices'])} slices: {each.failed}"
        for each in failures
    )
    return [
        f"## {setting.heading}",
        "",
        *measured([cell for row in rows for cell in row.cells if not row.head_only]),
        "",
        markdown_table(heading, lines),
        "",
        *(f"- failed: {reason}" for reason in reasons),
        *_shared_cores(rows),
        *_missing(setting, rows),
        "",
    ]  # fmt: skip


def _line(row: Row, marks: Sequence[str], later: Sequence[str], baseline: Row | None) -> list[str]:
    values = ["" if row.head_only and mark != "0" else spread(row.at(mark), 3) for mark in marks]
    over = []
    for mark in later:
        gains = row.over(baseline, mark) if baseline is not None and baseline.name != row.name else []
        fewer = f" ({len(gains)})" if gains and len(gains) < len(row.dice) else ""
        over.append(spread(gains, 3, mark="**", sign="+") + fewer if gains else "")
    seconds = mean([cell.seconds.get("pretrain") for cell in row.cells])
    before = "" if seconds is None else f"{seconds / 60:.1f}"
    return [row.name, _slice_text(row.slices), *values, *over, str(len(row.dice)), before]


def _shared_cores(rows: Sequence[Row]) -> list[str]:
    """A warning if cells on a CPU shared their core with other programs, and so took fewer steps."""
    shares = [cell.notes.get("cores") for row in rows if not row.head_only for cell in row.cells]
    low = [share for share in shares if share is not None and share < MIN_CORE_SHARE]
    if not low or any(cell.settings["device"] != "cpu" for row in rows for cell in row.cells):
        return []
    return [
        f"- beside other programs: {len(low)} cells had less than {MIN_CORE_SHARE} of a core, "
        f"down to {min(low):.2f}"
    ]


def _missing(setting: Setting, rows: Sequence[Row]) -> list[str]:
    """The cells of the grid without a result."""
    if setting.judge != "test":
        return []
    ran = {(cell.method, cell.settings["slices"]) for row in rows for cell in row.cells}
    missing = {
        plain_name(method): [str(each) for each in SLICES if (method, each) not in ran] for method in GRID
    }
    items = [f"{name} ({', '.join(slices)})" for name, slices in missing.items() if slices]
    return [f"- not run: {'; '.join(items)}"] if items else []


def panels_of(tables: dict[Setting, list[Row]], order: Sequence[str], slices: int) -> list[Panel]:
    """A panel for each data set, of test scans, or of validation scans if no test scans were judged."""
    judges = {setting.judge for setting in tables}
    judge = "test" if "test" in judges else next(iter(judges), "")
    panels = []
    for dataset in order:
        candidates = [each for each in tables if (each.dataset, each.judge) == (dataset, judge)]
        if not candidates:
            continue
        setting = max(candidates, key=lambda each: sum(len(row.dice) for row in tables[each]))
        rows = [row for row in tables[setting] if row.slices == slices and not row.head_only]
        lines = [
            Line(row.name, {mark: row.at(f"{mark:g}") for mark in setting.marks_s}, row.peer) for row in rows
        ]
        fully_annotated = [row for row in tables[setting] if row.slices == ALL and not row.head_only]
        if fully_annotated:
            best = max(fully_annotated, key=lambda row: mean(row.at(setting.marks[-1])) or 0.0)
            values = {mark: best.at(f"{mark:g}") for mark in setting.marks_s if mark}
            lines.append(Line("all slices", values, ceiling=True))
        if lines:
            panels.append(Panel(dataset, judge, lines))
    return panels
