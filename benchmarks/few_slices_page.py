"""The table and the curves of benchmarks/few_slices.py, from its lines."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from few_slices_rows import NAMES, SEEDS, SLICES, Row, Setting, newest, rows_of
from medssl import pictures
from medssl.cells import Cell, mean, read_lines
from medssl.files import write_whole
from medssl.pictures import Amounts
from medssl.report import number
from medssl.study import RANDOM

MARK = "<!-- Everything below is written by: python benchmarks/few_slices.py draw -->"
"""What stands above it in the page is kept."""

NOT_RUN = "not run"
BEST_DRAWN = 3
"""So many of our methods have a colour of their own besides random weights."""

ABOUT = """\
Each line is a method and a number of painted slices. Dice, the 95 % Hausdorff distance (MONAI, mm) and the
relative volume error are means over the judged scans of the mean over classes; then over seeds, with the
sample standard deviation. A class that is missed, or predicted where there is none, counts with the scan's
diagonal as its distance. The seed draws the two annotated scans, so seeds differ by scans, and one seed means
the same slices for every method. *Minutes* are those of training, pre-training + fine-tuning; planning,
preprocessing and prediction come on top for everyone. The raw lines stand beside this page, one for each
cell, with Dice of every scan and class, all settings, versions and the commit."""


def draw(lines: Sequence[Path], page: Path, datasets: Iterable[str]) -> list[Path]:
    """Write the page and, beside it, a picture for each data set; returns all files."""
    cells, failures = newest(itertools.chain.from_iterable(read_lines(path) for path in lines))
    settings = sorted(
        {Setting.of(cell) for cell in cells}, key=lambda each: (each.judge, each.dataset, each.minutes)
    )
    text, made = [ABOUT, ""], [page]
    drawn: set[str] = set()
    for setting in settings:
        rows = rows_of(setting, cells, failures)
        text += _section(setting, rows)
        if setting.judge == "test" and any(row.cells for row in rows):
            suffix = "" if setting.dataset not in drawn else f"-{setting.minutes:g}-{setting.device}"
            drawn.add(setting.dataset)
            picture = page.with_name(f"{page.stem}-{setting.dataset}{suffix}.png")
            _picture(picture, setting, rows)
            text += [f"![Dice over painted slices, {setting.dataset}]({picture.name})", ""]
            made.append(picture)
    for dataset in datasets:
        if dataset not in drawn:
            text += [f"## {dataset}", "", f"All cells: {NOT_RUN}.", ""]
    above = _above(page)
    content = "\n".join([above, MARK, "", *text]).rstrip() + "\n"
    write_whole(page, lambda file: file.write(content.encode("utf-8")))
    return made


def _above(page: Path) -> str:
    """What somebody wrote above the mark."""
    if page.exists():
        return page.read_text(encoding="utf-8").partition(MARK)[0].rstrip() + "\n"
    return "# A few painted slices\n"


def _section(setting: Setting, rows: Sequence[Row]) -> list[str]:
    """Heading, table, and what it was measured with."""
    judged = "" if setting.judge == "test" else ", judged on validation scans"
    cells = [cell for row in rows for cell in row.cells.values()]
    seeds = sorted({*SEEDS, *(cell.seed for cell in cells)})
    table = [row for row in rows if row.name != NAMES["interpolation"]]  # it has a place further down
    heading = ["method", "slices", "Dice", "seeds " + " / ".join(map(str, seeds)), "HD95 mm"]
    heading += ["volume error", "minutes"]
    return [
        f"## {setting.dataset}, {setting.minutes:g} minutes, {setting.device.upper()}{judged}",
        "",
        *_measured(cells),
        "",
        "| " + " | ".join(heading) + " |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: |",
        *(_line(row, seeds) for row in _folded(table)),
        "",
        *_failures(rows),
        *_painted(rows),
    ]


def _folded(rows: Sequence[Row]) -> list[Row]:
    """Methods without any line have one row for all numbers of slices (0 stands for these)."""
    result = []
    for name, group in itertools.groupby(rows, key=lambda row: row.name):
        of_it = list(group)
        nothing = not any(row.cells or row.failures for row in of_it)
        result += [Row(name, 0, {}, {})] if nothing else of_it
    return result


def _line(row: Row, seeds: Sequence[int]) -> str:
    slices = str(row.slices) if row.slices else ", ".join(map(str, SLICES))
    cells = list(row.cells.values())
    each = " / ".join(
        number(row.cells[seed].dice) if seed in row.cells else "failed" if seed in row.failures else NOT_RUN
        for seed in seeds
    )
    if not cells:
        words = f"failed | {each}" if row.failures else f"{NOT_RUN} | "
        return f"| {row.name} | {slices} | {words} | | | |"
    spread = [
        _spread([cell.dice for cell in cells], 3, bold=True),
        each,
        _spread([cell.hausdorff95_mm for cell in cells], 1),
        _spread([cell.volume_error for cell in cells], 2),
        _minutes(cells),
    ]
    return f"| {row.name} | {slices} | " + " | ".join(spread) + " |"


def _spread(values: Sequence[float | None], digits: int, bold: bool = False) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    middle = f"{statistics.fmean(known):.{digits}f}"
    middle = f"**{middle}**" if bold else middle
    return middle + (f" ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else "")


def _minutes(cells: Sequence[Cell]) -> str:
    phases = [phase for phase in ("pretrain", "finetune") if phase in cells[0].seconds]
    return " + ".join(
        f"{(mean([cell.seconds.get(phase) for cell in cells]) or 0) / 60:.1f}" for phase in phases
    )


def _measured(cells: Sequence[Cell]) -> list[str]:
    """Dates, machines, versions and commits of the cells."""
    if not cells:
        return []
    dates = sorted(datetime.fromisoformat(cell.date).date() for cell in cells)
    span = f"{dates[0]:%d %B %Y}" + (f" to {dates[-1]:%d %B %Y}" if dates[0] != dates[-1] else "")
    machines = Counter(_machine(cell) for cell in cells)
    commits = Counter(str(cell.machine.get("commit")) for cell in cells)
    scans = {len(cell.dice_of_scan) for cell in cells if cell.judged_on != "painted"}
    return [
        f"{len(cells)} cells, {span}; {_counted(machines)}; commit {_counted(commits)}; "
        f"{' or '.join(map(str, sorted(scans)))} {cells[0].settings['judge']} scans."
    ]


def _machine(cell: Cell) -> str:
    threads = cell.plan.get("threads")
    processor = cell.machine.get("gpu") or cell.machine.get("cpu")
    words = f"{processor}, torch {cell.machine.get('torch')}"
    return words if threads is None else f"{words}, {threads} thread{'s' if threads > 1 else ''}"


def _counted(counts: Counter[str]) -> str:
    """ "a", or "a (12 cells), b (3 cells)"."""
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{name} ({count} cells)" for name, count in counts.most_common())


def _failures(rows: Sequence[Row]) -> list[str]:
    reasons = Counter(
        f"{row.name}, {row.slices} slices: {failure.failed}"
        for row in rows
        for failure in row.failures.values()
    )
    return [*(f"- failed: {reason}" for reason in reasons), ""] if reasons else []


def _painted(rows: Sequence[Row]) -> list[str]:
    """Dice on the annotated scans, where interpolation is at home."""
    lines = []
    for row in rows:
        values = [cell.dice_on_painted_scans for cell in row.cells.values()]
        if values:
            lines.append(f"| {row.name} | {row.slices} | {_spread(values, 3)} |")
        elif row.name == NAMES["interpolation"]:
            lines.append(f"| {row.name} | {row.slices} | {NOT_RUN} |")
    if not lines:
        return []
    return [
        "On the two painted scans of each seed, painted slices as painted:",
        "",
        "| method | slices | Dice |",
        "| --- | ---: | ---: |",
        *lines,
        "",
    ]


def _picture(path: Path, setting: Setting, rows: Sequence[Row]) -> None:
    """Random weights, the best of ours and the peers in colour, the rest faintly."""
    values: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        scores = [cell.dice for cell in row.cells.values() if cell.judged_on != "painted"]
        if scores:
            values.setdefault(row.name, {})[row.slices] = scores
    peers = [name for name in values if name in NAMES.values()]
    ours = [name for name in values if name not in peers and name != RANDOM]

    def worth(name: str) -> tuple[int, float]:
        """By the numbers of slices that it was run with, then by mean Dice: best of what is comparable."""
        return len(values[name]), statistics.fmean(statistics.fmean(each) for each in values[name].values())

    best = sorted(ours, key=worth, reverse=True)[:BEST_DRAWN]
    order = [*(name for name in (RANDOM,) if name in values), *best, *peers]
    drawn = [Amounts(name, values[name], dashed=name in peers) for name in order]
    drawn += [Amounts(name, values[name], quiet=True) for name in ours if name not in best]
    words = (
        f"{setting.minutes:g} minutes of training; line: mean, band: standard deviation, dots: seeds"
        + ("; dashed: other programs" if peers else "")
        + ("; faint: our other methods" if len(ours) > len(best) else "")
    )
    pictures.amounts(path, drawn, f"{setting.dataset}: Dice on test scans", words)
