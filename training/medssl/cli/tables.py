"""Dice scores as rich tables and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from medssl.benchmarking.report import number, study_lines
from medssl.benchmarking.results_log import Cell
from medssl.core.labels.evaluate import Scores
from medssl.core.project.contents import LabelClass
from medssl.core.project.review import Reviewable


def scores_table(scores: Scores, names: Mapping[str, str], title: str) -> Table:
    """Table with a row for each scan, a column for each class, and means.

    Args:
        scores: What it shows.
        names: {scan id: name of the scan}.
        title: Title of the table.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("scan")
    for label_class in scores.classes:
        table.add_column(label_class.name, justify="right")
    table.add_column("mean", justify="right", style="bold")
    for scan_id, scan_scores in scores.values.items():
        cells = [number(scan_scores[label_class.id]) for label_class in scores.classes]
        table.add_row(names[scan_id], *cells, number(scores.of_scan(scan_id)))
    table.add_section()
    means = [number(scores.of_class(label_class.id)) for label_class in scores.classes]
    table.add_row("mean", *means, number(scores.mean), style="bold")
    return table


def review_table(
    queue: Sequence[Reviewable], names: Mapping[str, str], classes: Sequence[LabelClass], title: str
) -> Table:
    """Table with a row for each prediction: its expected quality, that of each class, and its state.

    Args:
        queue: The predictions.
        names: {scan id: name of the scan}.
        classes: Classes of the project.
        title: Title of the table.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("scan")
    table.add_column("expected Dice", justify="right", style="bold")
    for label_class in classes:
        table.add_column(label_class.name, justify="right")
    table.add_column("reviewed")
    for item in queue:
        cells = [number(item.expected_dice.get(label_class.id, math.nan)) for label_class in classes]
        table.add_row(names[item.scan], number(item.quality), *cells, "accepted" if item.accepted else "")
    return table


def study_table(cells: Sequence[Cell]) -> Table:
    """Table with a row for each method: Dice per class, mean and standard deviation over seeds, times."""
    heading, *rows = study_lines(cells)
    table = Table(title="Dice on the test scans", title_justify="left")
    table.add_column(heading[0], overflow="fold")
    for name in heading[1:]:
        table.add_column(name, justify="right", style="bold" if name == "mean" else None)
    for row in rows:
        table.add_row(*row)
    return table


def scores_json(scores: Scores) -> dict[str, Any]:
    """Dice scores as JSON values; null where a class is in neither prediction nor reference."""
    return {
        "mean": _or_null(scores.mean),
        "classes": {entry.name: _or_null(scores.of_class(entry.id)) for entry in scores.classes},
        "scans": {
            scan_id: {entry.name: _or_null(scan_scores[entry.id]) for entry in scores.classes}
            for scan_id, scan_scores in scores.values.items()
        },
        "left_out": scores.left_out,
    }


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
