"""Writes the results of the demo: the table of Dice as Markdown and JSON, and figures."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt

from medssl.benchmarking import pictures, protocol
from medssl.benchmarking.experiment import Work
from medssl.benchmarking.protocol import Material
from medssl.benchmarking.results_log import Cell, rows
from medssl.core import methods
from medssl.core.features.retrieval import Query, best_match, neighbourhood_descriptor
from medssl.core.features.similarity import open_features, similarity
from medssl.core.files import make_folder, write_whole
from medssl.core.jobs import FeaturesJob
from medssl.core.json_files import write_json
from medssl.core.labels.evaluate import Scores, reference_labels
from medssl.core.labels.metrics import dice
from medssl.core.project.project import Project
from medssl.core.shipped import SHAPES

PICTURED_SCANS = 2
"""Number of test scans in the figures."""


def number(value: float | None) -> str:
    """Format a score as 0.812, or a dash if it is None or NaN."""
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def title(method: str) -> str:
    """Title of a method in tables and figures, e.g. "PGL" or "shapes, then PGL, labels only"."""
    combination = protocol.Combination.of(method)
    weights = combination.weights
    if combination.pretraining:
        name = methods.title(combination.pretraining)
        weights = f"{SHAPES}, then {name}" if combination.start == SHAPES else name
    if not combination.semi_supervised:
        return weights
    return f"{weights}, " + (
        "labels only"
        if combination.semi_supervised == "none"
        else combination.semi_supervised.replace("_", "-")
    )


def markdown_table(
    heading: Sequence[str], rows: Iterable[Sequence[str]], text: Collection[int] = (0,)
) -> str:
    """A Markdown table.

    Args:
        heading: Titles of the columns.
        rows: Cells.
        text: Numbers of the columns of text, aligned to the left; the others are of numbers.
    """
    rule = ["---" if column in text else "---:" for column in range(len(heading))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heading, rule, *rows))


def study_lines(cells: Sequence[Cell]) -> list[list[str]]:
    """The results as a table of strings: a heading, then one line for each method."""
    summary = rows(cells)
    classes = list(summary[0].dice_of_class)
    lines = [["start", *classes, "mean", "seeds", "seconds"]]
    for row in summary:
        spread = "" if row.spread is None else f" ± {row.spread:.3f}"
        times = [row.seconds[phase] for phase in ("pretrain", "finetune") if phase in row.seconds]
        lines.append(
            [
                title(row.method),
                *(number(row.dice_of_class[name]) for name in classes),
                number(row.dice) + spread,
                ", ".join(map(str, row.seeds)),
                "+".join(f"{seconds:.0f}" for seconds in times),
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
        f"{material.dataset.name}: {len(material.references)} test scans, held out of training. "
        f"{slices} complete axial slices on {len(first.annotated)} scans, which each seed draws anew. "
        f"{60 * first.settings['minutes']:g} s of fine-tuning for each method and seed, after the "
        "pre-training on the scans where there is one. "
        "The mean is over classes and scans; ± is the standard deviation over seeds. "
        "Seconds: training time, pre-training + fine-tuning.",
        "",
        markdown_table(heading, lines),
        "",
    ]
    make_folder(out)
    write_whole(out / "dice.md", lambda file: file.write("\n".join(text).encode("utf-8")))
    write_json(
        out / "dice.json",
        {
            "dataset": material.dataset.name,
            "test_scans": list(material.references),
            "rows": [asdict(row) for row in rows(cells)],
            "cells": [asdict(cell) for cell in cells],
        },
    )


def write_pictures(out: Path, material: Material, cells: Sequence[Cell], work: Work) -> None:
    """Draw the figures: Dice of all cells, examples and training curves of the first seed.

    Args:
        out: output folder.
        material: data set and project.
        cells: finished cells.
        work: runs a job.
    """
    cells_of_seed = [cell for cell in cells if cell.seed == cells[0].seed]
    _draw_dice(out / "dice.png", material, cells)
    _draw_over_time(out / "dice-over-time.png", material, cells)
    _draw_overlay(out / "overlay.png", material, cells_of_seed)
    _draw_curves(out, material, cells_of_seed)
    _draw_similarity(out / "similarity.png", material, cells_of_seed, work)


def _draw_dice(path: Path, material: Material, cells: Sequence[Cell]) -> None:
    scores: dict[str, dict[str, list[float]]] = {}
    for cell in cells:
        of_class = scores.setdefault(title(cell.method), {})
        for name, value in {**cell.dice_of_class, "mean": cell.dice}.items():
            of_class.setdefault(name, []).append(math.nan if value is None else value)
    colors = {entry.name: entry.color for entry in material.project.classes}
    pictures.dice_table(path, scores, f"{material.dataset.name}: Dice on test scans", colors)


def _draw_over_time(path: Path, material: Material, cells: Sequence[Cell]) -> None:
    """Dice over seconds of fine-tuning: a line for each method, the mean over seeds."""
    lines = []
    for method in dict.fromkeys(cell.method for cell in cells):
        method_cells = [cell for cell in cells if cell.method == method]
        marks = [
            {
                **{float(seconds): scores["dice"] for seconds, scores in cell.after_s.items()},
                cell.seconds["finetune"]: cell.dice,
            }
            for cell in method_cells
        ]
        points = np.mean([sorted(dice_at.items()) for dice_at in marks], axis=0)
        lines.append(pictures.Curve(title(method), loss=np.empty((0, 2)), dice=points))
    pictures.curves(
        path, lines, f"{material.dataset.name}: Dice during fine-tuning", "seconds of fine-tuning"
    )


def _draw_overlay(path: Path, material: Material, cells: Sequence[Cell]) -> None:
    project = material.project
    drawn = []
    for scan_id, labels in list(material.references.items())[:PICTURED_SCANS]:
        scan = project.scans[scan_id]
        reference = reference_labels(scan, labels)
        predictions = {}
        for cell in cells:
            predicted = project.prediction(cell.runs["finetune"], scan_id)
            if predicted is not None:
                scores = Scores(project.classes, {scan_id: dice(predicted, reference, _ids(project))})
                caption = f"{title(cell.method)}\nDice {number(scores.mean)}"
                predictions[caption] = predicted
        image = np.asarray(project.image(scan_id))
        drawn.append(
            pictures.Segmented(
                image, scan.geometry.spacing_mm, reference, predictions, scan_id, scan.modality
            )
        )
    slices = sum(len(chosen) for chosen in cells[0].annotated.values())
    heading = f"{material.dataset.name}: test scans, trained on {slices} annotated slices"
    pictures.overlay(path, drawn, project.classes, heading)


def _draw_curves(out: Path, material: Material, cells: Sequence[Cell]) -> None:
    runs = [(title(cell.method), cell.runs["finetune"]) for cell in cells]
    _draw_curve(out / "curves.png", material, runs, "fine-tuning")
    runs = [(title(cell.method), cell.runs["pretrain"]) for cell in cells if "pretrain" in cell.runs]
    for name, run_id in runs:  # separate figures: losses of different methods are not comparable
        _draw_curve(out / f"curves-{name.lower()}.png", material, [(name, run_id)], f"pre-training, {name}")


def _draw_curve(path: Path, material: Material, runs: Sequence[tuple[str, str]], heading: str) -> None:
    lines = [
        pictures.read_curve(material.project.run(run_id).folder / "events.jsonl", name)
        for name, run_id in runs
    ]
    pictures.curves(path, lines, f"{material.dataset.name}: {heading}")


def _draw_similarity(path: Path, material: Material, cells: Sequence[Cell], work: Work) -> None:
    """A voxel of the first class in one test scan, and its best match in the next."""
    project = material.project
    pretrained = [cell.runs["pretrain"] for cell in cells if "pretrain" in cell.runs]
    run_id = pretrained[-1] if pretrained else SHAPES
    scan_ids = list(material.references)[:PICTURED_SCANS]
    device = cells[0].settings["device"]
    work(FeaturesJob(project=str(project.root), device=device, weights=run_id, scans=tuple(scan_ids)))
    query, drawn = None, []
    for scan_id in scan_ids:
        scan = project.scans[scan_id]
        labels = reference_labels(scan, material.references[scan_id])
        cache = open_features(project, scan_id, run_id)
        if query is None:
            voxel = innermost(labels)
            query = Query(neighbourhood_descriptor(cache, voxel))
            caption = "the marked voxel lies in: "
        else:
            voxel = best_match(cache, query).voxel_zyx
            caption = "the best match lies in: "
        names = {entry.id: entry.name for entry in project.classes}
        drawn.append(
            pictures.Similar(
                np.asarray(project.image(scan_id)),
                scan.geometry.spacing_mm,
                similarity(cache, query.centre),
                voxel,
                f"{scan_id}\n{caption}{names.get(int(labels[voxel]), 'background')}",
                cache.step_vox,
                scan.modality,
            )
        )
    pictures.similarity(path, drawn, f"{material.dataset.name}: feature similarity, {run_id}")


def innermost(labels_zyx: np.ndarray) -> tuple[int, int, int]:
    """The innermost voxel of the class with the lowest id.

    Args:
        labels_zyx: labels, integer (Z, Y, X), with at least one foreground voxel.

    Returns:
        Voxel (z, y, x) farthest from the border of the class.
    """
    inside = labels_zyx == labels_zyx[labels_zyx > 0].min()
    depth = distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1, 1:-1]
    z, y, x = (int(index) for index in np.unravel_index(int(depth.argmax()), depth.shape))
    return z, y, x


def _ids(project: Project) -> list[int]:
    return [entry.id for entry in project.classes]


def contents(out: Path) -> list[str]:
    """Describe the files in the output folder, one line each."""
    descriptions = {
        "dice.md": "the table above",
        "dice.png": "the table as a figure",
        "dice-over-time.png": "Dice over seconds of fine-tuning",
        "overlay.png": "predictions and reference on a test scan",
        "similarity.png": "feature similarity to one voxel, by the pre-trained network",
        "curves.png": "training curves",
        "predictions": "segmentations as NIfTI",
        "project": "the project; open it in napari or with medssl demo --view",
    }
    return [f"{out / name}  {text}" for name, text in descriptions.items() if (out / name).exists()]
