"""Dice scores as rich tables and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from medssl.benchmarking.report import number, study_lines
from medssl.benchmarking.results_log import Cell
from medssl.core.labels.evaluate import Scores


def scores_table(scores: Scores, title: str) -> Table:
    """One line a scan, one column a class, means at the right and at the bottom."""
    table = Table(title=title, title_justify="left")
    table.add_column("scan")
    for label_class in scores.classes:
        table.add_column(label_class.name, justify="right")
    table.add_column("mean", justify="right", style="bold")
    for scan_id, of_scan in scores.values.items():
        cells = [number(of_scan[label_class.id]) for label_class in scores.classes]
        table.add_row(scan_id, *cells, number(scores.of_scan(scan_id)))
    table.add_section()
    means = [number(scores.of_class(label_class.id)) for label_class in scores.classes]
    table.add_row("mean", *means, number(scores.mean), style="bold")
    return table


def study_table(cells: Sequence[Cell]) -> Table:
    """One line a method: Dice per class, mean and spread over seeds, and times."""
    heading, *lines = study_lines(cells)
    table = Table(title="Dice on the test scans", title_justify="left")
    table.add_column(heading[0])
    for name in heading[1:]:
        table.add_column(name, justify="right", style="bold" if name == "mean" else None)
    for line in lines:
        table.add_row(*line)
    return table


def scores_json(scores: Scores) -> dict[str, Any]:
    """The same numbers for programs; null where a class is in neither prediction nor reference."""
    return {
        "mean": _or_null(scores.mean),
        "classes": {each.name: _or_null(scores.of_class(each.id)) for each in scores.classes},
        "scans": {
            scan_id: {each.name: _or_null(of_scan[each.id]) for each in scores.classes}
            for scan_id, of_scan in scores.values.items()
        },
    }


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
