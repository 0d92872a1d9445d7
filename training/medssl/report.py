"""What the demo hands over: its Dice table as Markdown and JSON, and its pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from medssl import study
from medssl.files import write_json, write_whole
from medssl.study import Cell, Material


def number(value: float) -> str:
    """0.812, or a dash where there is nothing to compare."""
    return "–" if math.isnan(value) else f"{value:.3f}"


def title(initialisation: str) -> str:
    """What an initialisation is called in tables and pictures."""
    return initialisation if initialisation == study.RANDOM else initialisation.upper()


def study_lines(cells: Sequence[Cell]) -> list[list[str]]:
    """The study as a table of words: a heading, then one line for each initialisation."""
    summary = study.rows(cells)
    classes = list(summary[0].dice_of_class)
    lines = [["weights", *classes, "mean", "seeds", "minutes"]]
    for row in summary:
        spread = "" if row.spread is None else f" ± {row.spread:.3f}"
        times = [row.seconds[phase] / 60 for phase in ("pretrain", "finetune") if phase in row.seconds]
        lines.append(
            [
                title(row.initialisation),
                *(number(row.dice_of_class[name]) for name in classes),
                number(row.dice) + spread,
                ", ".join(map(str, row.seeds)),
                " + ".join(f"{minutes:.1f}" for minutes in times),
            ]
        )
    return lines


def write_tables(out: Path, material: Material, cells: Sequence[Cell]) -> None:
    """Write dice.md and dice.json."""
    heading, *lines = study_lines(cells)
    first = cells[0]
    slices = sum(len(indices) for indices in first.annotated.values())
    text = [
        "# Dice on the test scans",
        "",
        f"{material.dataset.name}: {len(material.references)} test scans, never trained on. "
        f"{slices} complete axial slices on {len(first.annotated)} scans, drawn anew for each seed. "
        f"{first.settings['minutes']:g} minutes of training for each line and seed, pre-training included. "
        "The mean is over classes and scans, ± is the standard deviation over seeds. "
        "The minutes are those of training, pre-training + fine-tuning.",
        "",
        "| " + " | ".join(heading) + " |",
        "| --- |" + " ---: |" * (len(heading) - 1),
        *("| " + " | ".join(line) + " |" for line in lines),
        "",
    ]
    write_whole(out / "dice.md", lambda file: file.write("\n".join(text).encode("utf-8")))
    write_json(
        out / "dice.json",
        {
            "dataset": material.dataset.name,
            "test_scans": list(material.references),
            "rows": [_without_nan(asdict(row)) for row in study.rows(cells)],
            "cells": [_without_nan(asdict(cell)) for cell in cells],
        },
    )


def contents(out: Path) -> list[str]:
    """What lies in the folder, for the end of the demo."""
    parts = {
        "dice.md": "the table above",
        "overlay.png": "predictions and reference on a test scan",
        "similarity.png": "what looks like one voxel, to the pre-trained network",
        "curves.png": "training curves",
        "predictions": "segmentations as NIfTI",
        "project": "the project; open it in napari or with medssl demo --view",
    }
    return [f"{out / name}  {what}" for name, what in parts.items() if (out / name).exists()]


def _without_nan(value: object) -> object:
    """JSON has no NaN: null stands for a class that is in neither prediction nor reference."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
