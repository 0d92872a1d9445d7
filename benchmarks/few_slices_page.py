"""Page of benchmarks/few_slices.py: a table and curves for each data set."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from few_slices_rows import NAMES, SEEDS, Row, Setting, newest, plain_name, rows_of, settings_of
from medssl.benchmarking import pictures
from medssl.benchmarking.pictures import SliceCounts
from medssl.benchmarking.protocol import RANDOM
from medssl.benchmarking.report import markdown_table, number
from medssl.benchmarking.results_log import Cell, mean, read_lines
from medssl.benchmarking.surroundings import Origin, describe_origins, machine_text
from medssl.core.files import write_whole

MARK = "<!-- Everything below is written by: python benchmarks/few_slices.py draw -->"
"""Text above this line is kept when the page is rewritten."""

NOT_RUN = "not run"
BEST_DRAWN = 3
"""Number of our methods, besides random weights, that are drawn in colour."""

ABOUT = """\
Each line is a method and a number of annotated slices. Dice, the 95 % Hausdorff distance (MONAI, mm) and the
relative volume error are means over the judged scans of the mean over classes, then mean and sample standard
deviation over seeds. If a class is missed, or predicted where it does not occur, its distance is the diagonal
of the scan. The seed draws the two annotated scans, so all methods with the same seed use the same slices.
*Over random* is the paired difference to random weights that are fine-tuned in the same way; for random
weights themselves and for other programs, to *random*. *Painted scans* is Dice on the two annotated scans,
where annotated slices keep their labels; interpolation applies to these only. *Minutes* are training times,
pre-training + fine-tuning, without planning, preprocessing and prediction. In tables "after" some minutes of
pre-training, the pre-training ran earlier, as it can during annotation: once per method with seed 0 for all
draws, so the standard deviation is due to the annotated slices only.
The raw lines are next to this page, one per cell, with Dice of every scan and class, all settings, versions
and the commit.

nnU-Net gets the annotated slices, with its ignore label on all other voxels, the same training time, the same
number of threads, and one process. Its learning rate decreases over this time, and its validation batches are
skipped; all else is its default. The random forest processes axial slices one by one, with no time limit."""


def draw(lines: Sequence[Path], page: Path, datasets: Iterable[str]) -> list[Path]:
    """Write the page and, beside it, a picture for each data set; returns all files."""
    cells, failures = newest(itertools.chain.from_iterable(read_lines(path) for path in lines))
    order = list(datasets)
    settings = settings_of(cells, order)
    text, made = [ABOUT, ""], [page]
    drawn: set[str] = set()
    for setting in settings:
        rows = rows_of(setting, cells, failures)
        text += _section(setting, rows)
        if setting.judge == "test" and any(row.cells for row in rows):
            before = f"-{setting.pretrain_minutes:g}+" if setting.pretrain_minutes else "-"
            suffix = "" if setting.dataset not in drawn else f"{before}{setting.minutes:g}-{setting.device}"
            drawn.add(setting.dataset)
            picture = page.with_name(f"{page.stem}-{setting.dataset}{suffix}.png")
            _picture(picture, setting, rows)
            text += [f"![Dice over annotated slices, {setting.dataset}]({picture.name})", ""]
            made.append(picture)
    for dataset in order:
        if dataset not in drawn:
            text += [f"## {dataset}", "", f"All cells: {NOT_RUN}.", ""]
    above = _above(page)
    content = "\n".join([above, MARK, "", *text]).rstrip() + "\n"
    write_whole(page, lambda file: file.write(content.encode("utf-8")))
    return made


def _above(page: Path) -> str:
    """The part of the page that was written by hand."""
    if page.exists():
        return page.read_text(encoding="utf-8").partition(MARK)[0].rstrip() + "\n"
    return "# A few annotated slices\n"


def _section(setting: Setting, rows: Sequence[Row]) -> list[str]:
    """Heading, conditions and table."""
    judged = "" if setting.judge == "test" else ", judged on validation scans"
    cells = [cell for row in rows for cell in row.cells.values()]
    seeds = sorted({*SEEDS, *(cell.seed for cell in cells)})
    heading = ["method", "slices", "Dice", "over random", "seeds " + " / ".join(map(str, seeds)), "HD95 mm"]
    heading += ["volume error", "painted scans", "minutes"]
    baselines = {(row.name, row.slices): row for row in rows}
    return [
        f"## {setting.dataset}, {_times(setting)}, {setting.device.upper()}{judged}",
        "",
        *measured(cells),
        "",
        markdown_table(
            heading,
            itertools.chain.from_iterable(
                _lines(list(group), seeds, baselines)
                for _, group in itertools.groupby(rows, key=lambda row: row.name)
            ),
            text=(0, 4),
        ),
        "",
        *_failures(rows),
    ]


def _times(setting: Setting) -> str:
    if not setting.pretrain_minutes:
        return f"{setting.minutes:g} minutes"
    return f"{setting.minutes:g} minutes after {setting.pretrain_minutes:g} of pre-training"


def _lines(
    rows: Sequence[Row], seeds: Sequence[int], baselines: Mapping[tuple[str, int], Row]
) -> list[list[str]]:
    """Table rows of a method; numbers of slices that were not run share one line."""
    run = [row for row in rows if row.cells or row.failures]
    lines = [_line(row, seeds, baselines.get((row.baseline, row.slices))) for row in run]
    missing = [str(row.slices) for row in rows if row not in run]
    if missing:
        lines.append([rows[0].name, ", ".join(missing), NOT_RUN, *[""] * 6])
    return lines


def _line(row: Row, seeds: Sequence[int], baseline: Row | None) -> list[str]:
    cells = list(row.cells.values())
    judged = {seed: cell for seed, cell in row.cells.items() if cell.judged_on != "painted"}
    each = [
        number(judged[seed].dice)
        if seed in judged
        else "failed"
        if seed in row.failures
        else "–"
        if seed in row.cells
        else NOT_RUN
        for seed in seeds
    ]
    return [
        row.name,
        str(row.slices),
        spread([cell.dice for cell in judged.values()], 3, mark="**") if judged or cells else "failed",
        _over(row, baseline),
        " / ".join(each),
        spread([cell.hausdorff95_mm for cell in judged.values()], 1),
        spread([cell.volume_error for cell in judged.values()], 2),
        spread([cell.dice_on_painted_scans for cell in cells], 3),
        _minutes(cells),
    ]


def _over(row: Row, baseline: Row | None) -> str:
    """Paired difference to random weights: same seed, so the same slices of the same scans."""
    if baseline is None or row.name == baseline.name:
        return ""
    differences = [
        cell.dice - baseline.cells[seed].dice
        for seed, cell in row.cells.items()
        if seed in baseline.cells and cell.judged_on != "painted"
    ]
    return spread(differences, 3, sign="+") if differences else ""


def spread(values: Sequence[float | None], digits: int, mark: str = "", sign: str = "") -> str:
    """Mean and sample standard deviation of the defined values, as text.

    Args:
        values: Values; None for undefined ones.
        digits: Decimal places.
        mark: Markdown around the mean, such as "**".
        sign: "+" to show the sign of positive means.
    """
    defined = [value for value in values if value is not None]
    if not defined:
        return "–"
    text = f"{mark}{statistics.fmean(defined):{sign}.{digits}f}{mark}"
    return text + (f" ± {statistics.stdev(defined):.{digits}f}" if len(defined) > 1 else "")


def _minutes(cells: Sequence[Cell]) -> str:
    phases = [phase for phase in ("pretrain", "finetune") if cells and phase in cells[0].seconds]
    means = [mean([cell.seconds.get(phase) for cell in cells]) for phase in phases]
    return " + ".join(f"{(seconds or 0) / 60:.1f}" for seconds in means)


def measured(cells: Sequence[Cell]) -> list[str]:
    """Dates, machines, versions and commits of the cells."""
    if not cells:
        return []
    origins = [
        Origin(
            datetime.fromisoformat(cell.date).date(),
            machine_text(cell.machine, cell.plan.get("threads")),
            str(cell.machine.get("commit")),
        )
        for cell in cells
    ]
    scans = {len(cell.dice_of_scan) for cell in cells if cell.judged_on != "painted"}
    return [
        f"{describe_origins(origins, 'cell')}; "
        f"{' or '.join(map(str, sorted(scans)))} {cells[0].settings['judge']} scans."
    ]


def _failures(rows: Sequence[Row]) -> list[str]:
    reasons = Counter(
        f"{row.name}, {row.slices} slices: {failure.failed}"
        for row in rows
        for failure in row.failures.values()
    )
    return [*(f"- failed: {reason}" for reason in reasons), ""] if reasons else []


def _picture(path: Path, setting: Setting, rows: Sequence[Row]) -> None:
    """Draw random weights, supervised training, our best methods and the peers in colour, others faintly."""
    values: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        scores = [cell.dice for cell in row.cells.values() if cell.judged_on != "painted"]
        if scores:
            values.setdefault(row.name, {})[row.slices] = scores
    peers = [name for name in values if name in NAMES.values()]
    baselines = [name for name in (RANDOM, plain_name(f"{RANDOM}:none")) if name in values]
    ours = [name for name in values if name not in (*peers, *baselines)]

    def rank(name: str) -> tuple[int, float]:
        """How many numbers of slices it was run with, then mean Dice, so that means are comparable."""
        return len(values[name]), statistics.fmean(statistics.fmean(each) for each in values[name].values())

    best = sorted(ours, key=rank, reverse=True)[:BEST_DRAWN]
    order = [*baselines, *best, *peers]
    drawn = [SliceCounts(name, values[name], peer=name in peers) for name in order]
    drawn += [SliceCounts(name, values[name], quiet=True) for name in ours if name not in best]
    has_curves = any(len(each) > 1 for each in values.values())
    caption = (
        f"{_times(setting)}; line: mean, {'band' if has_curves else 'bar'}: standard "
        + "deviation, dots: seeds"
        + ("; dashed: other programs" if peers else "")
        + ("; faint: our other methods" if len(ours) > len(best) else "")
    )
    pictures.slice_counts(path, drawn, f"{setting.dataset}: Dice on test scans", caption)
