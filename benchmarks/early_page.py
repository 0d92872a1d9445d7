"""The table and the curves of benchmarks/early.py, from its lines."""

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
from medssl.benchmarking.results_log import Cell, Failure, mean, read_lines
from medssl.core.files import write_whole
from medssl.core.shipped import SHAPES
from peers import PEERS

MARK = "<!-- Everything below is written by: python benchmarks/early.py draw -->"
"""What stands above it in the page is kept."""

WANTED = (RANDOM, SHAPES, f"{SHAPES}+pgl", f"{SHAPES}+mae+pgl", "mae+pgl", "nnunet_2d")
SLICES = (1, 2, 3, 5, 10)
WHOLE = 0.85
"""Of a core; a fine-tuning that had less of it stood beside other programs."""
FIRST = ":first"
"""Behind a method's name: its first head alone, before any step."""

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
    """What tables are kept apart by: lines of different settings are no comparison."""

    dataset: str
    judge: str
    marks_s: tuple[float, ...]
    max_judged: int
    device: str

    @classmethod
    def of(cls, line: Cell | Failure) -> Setting:
        """Under which setting a line was made."""
        own = line.settings
        return cls(line.dataset, own["judge"], tuple(own["marks_s"]), own["max_judged"], own["device"])

    @property
    def marks(self) -> list[str]:
        """Names of the marks in lines."""
        return [f"{mark:g}" for mark in self.marks_s]

    @property
    def words(self) -> str:
        """For a heading."""
        judged = "" if self.judge == "test" else f", judged on {self.judge} scans"
        subset = f", at most {self.max_judged} scans" if self.max_judged else ""
        return f"{self.dataset}, {self.device.upper()}{judged}{subset}"


@dataclass(frozen=True)
class Row:
    """One start and number of slices."""

    name: str
    slices: int
    against: str
    """Name of the row it is compared with."""
    peer: bool = False
    alone: bool = False
    """The first head, before any step."""
    cells: list[Cell] = field(default_factory=list)
    dice: dict[int, dict[str, float | None]] = field(default_factory=dict)
    """{seed: {mark: Dice}}."""

    def at(self, mark: str) -> list[float]:
        """Dice of all draws that are known there."""
        found = (of_draw.get(mark) for of_draw in self.dice.values())
        return [value for value in found if value is not None]

    def over(self, other: Row, mark: str) -> list[float]:
        """Differences to another row, draw by draw."""
        both = (
            (self.dice[seed].get(mark), other.dice[seed].get(mark))
            for seed in self.dice
            if seed in other.dice
        )
        return [own - theirs for own, theirs in both if own is not None and theirs is not None]


def draw(lines: Sequence[Path], page: Path, order: Sequence[str], slices: int) -> list[Path]:
    """Write the page and, beside it, the picture for so many painted slices; returns all files."""
    cells, failures = newest(itertools.chain.from_iterable(read_lines(path) for path in lines))
    both: list[Cell | Failure] = [*cells, *failures]
    settings = sorted(
        {Setting.of(line) for line in both},
        key=lambda each: (each.judge, order.index(each.dataset), -max(each.marks_s), str(each)),
    )
    tables = {setting: rows_of(setting, cells) for setting in settings}
    text, made = [ABOUT, ""], [page]
    picture = page.with_suffix(".png")
    if panels := panels_of(tables, order, slices):
        several = "test" if panels[0].judge == "test" else panels[0].judge
        title = f"Dice on {several} scans from {slices} painted slice" + "s" * (slices > 1)
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
    """All rows of a table, slices by slices; of the shipped weights the first head alone, too."""
    here = [cell for cell in cells if Setting.of(cell) == setting]
    methods = {cell.method for cell in here}
    rows: dict[tuple[str, int], Row] = {}
    for cell in sorted(here, key=lambda cell: (_amount(cell.settings["slices"]), _place(cell.method))):
        same = f"{RANDOM}:{cell.method.partition(':')[2]}"
        against = plain_name(same if same in methods else RANDOM)
        found = {mark: each["dice"] for mark, each in cell.after_s.items()}
        versions = [(early_name(cell), found, False)]
        if cell.method == SHAPES and "0" in found:
            held = dict.fromkeys(setting.marks, found["0"])
            versions.insert(0, (f"{early_name(cell)}, first head alone", held, True))
        for name, dice, alone in versions:
            place = (name, cell.settings["slices"])
            row = rows.setdefault(place, Row(*place, against, cell.method in PEERS, alone))
            row.cells.append(cell)
            row.dice[cell.seed] = dice
    return list(rows.values())


def early_name(line: Cell | Failure) -> str:
    """The start in words, with whatever differs from the usual settings."""
    before = line.settings["pretrain_minutes"]
    return name_of(line) + (f", {before:g} min" if before else "")


def _amount(slices: int) -> float:
    return float("inf") if slices == ALL else slices


def _in_words(slices: int) -> str:
    return "all" if slices == ALL else str(slices)


def _place(method: str) -> tuple[int, str]:
    """Those of the grid in its order, then others."""
    weights = method.partition(":")[0]
    return (WANTED.index(weights) if weights in WANTED else len(WANTED), method)


def _section(setting: Setting, rows: Sequence[Row], failures: Sequence[Failure]) -> list[str]:
    """Heading, what it was measured with, the table, what failed and what was not run."""
    later = [mark for mark in setting.marks if mark != "0"]
    heading = ["start", "slices", *(f"{mark} s" for mark in setting.marks)]
    heading += [f"over random, {mark} s" for mark in later]
    heading += ["draws", "before"]
    rule = ["---", *["---:"] * (len(heading) - 1)]
    places = {(row.name, row.slices): row for row in rows}
    lines = [_line(row, setting.marks, later, places.get((row.baseline, row.slices))) for row in rows]
    reasons = Counter(
        f"{early_name(each)}, {_in_words(each.settings['slices'])} slices: {each.failed}" for each in failures
    )
    return [
        f"## {setting.words}",
        "",
        *measured([cell for row in rows for cell in row.cells if not row.alone]),
        "",
        *("| " + " | ".join(line) + " |" for line in [heading, rule, *lines]),
        "",
        *(f"- failed: {reason}" for reason in reasons),
        *_hurried(rows),
        *_missing(setting, rows),
        "",
    ]  # fmt: skip


def _line(row: Row, marks: Sequence[str], later: Sequence[str], baseline: Row | None) -> list[str]:
    values = ["" if row.alone and mark != "0" else spread(row.at(mark), 3) for mark in marks]
    over = []
    for mark in later:
        gains = row.over(baseline, mark) if baseline is not None and baseline.name != row.name else []
        fewer = f" ({len(gains)})" if gains and len(gains) < len(row.dice) else ""
        over.append(spread(gains, 3, mark="**", sign="+") + fewer if gains else "")
    seconds = mean([cell.seconds.get("pretrain") for cell in row.cells])
    before = "" if seconds is None else f"{seconds / 60:.1f}"
    return [row.name, _in_words(row.slices), *values, *over, str(len(row.dice)), before]


def _hurried(rows: Sequence[Row]) -> list[str]:
    """A warning where other programs took much of the time on a CPU: fewer steps than a core can take."""
    shares = [cell.notes.get("cores") for row in rows if not row.alone for cell in row.cells]
    few = [share for share in shares if share is not None and share < WHOLE]
    if not few or any(cell.settings["device"] != "cpu" for row in rows for cell in row.cells):
        return []
    return [
        f"- beside other programs: {len(few)} cells had less than {WHOLE} of a core, down to {min(few):.2f}"
    ]


def _missing(setting: Setting, rows: Sequence[Row]) -> list[str]:
    """What of the grid has no line."""
    if setting.judge != "test":
        return []
    ran = {(cell.method, cell.settings["slices"]) for row in rows for cell in row.cells}
    left = {
        plain_name(method): [str(each) for each in SLICES if (method, each) not in ran] for method in WANTED
    }
    words = [f"{name} ({', '.join(slices)})" for name, slices in left.items() if slices]
    return [f"- not run: {'; '.join(words)}"] if words else []


def panels_of(tables: dict[Setting, list[Row]], order: Sequence[str], slices: int) -> list[Panel]:
    """A panel for each data set: of its test scans, or of validation scans where that is all there is."""
    judges = {setting.judge for setting in tables}
    judge = "test" if "test" in judges else next(iter(judges), "")
    panels = []
    for dataset in order:
        fitting = [each for each in tables if (each.dataset, each.judge) == (dataset, judge)]
        if not fitting:
            continue
        setting = max(fitting, key=lambda each: sum(len(row.dice) for row in tables[each]))
        rows = [row for row in tables[setting] if row.slices == slices and not row.alone]
        lines = [
            Line(row.name, {mark: row.at(f"{mark:g}") for mark in setting.marks_s}, row.peer) for row in rows
        ]
        whole = [row for row in tables[setting] if row.slices == ALL and not row.alone]
        if whole:
            best = max(whole, key=lambda row: mean(row.at(setting.marks[-1])) or 0.0)
            known = {mark: best.at(f"{mark:g}") for mark in setting.marks_s if mark}
            lines.append(Line("all slices", known, ceiling=True))
        if lines:
            panels.append(Panel(dataset, judge, lines))
    return panels
