"""How well the review queue puts the worst predictions first: python benchmarks/review_queue.py

    run    fine-tune on the slices of each seed, segment all other scans, append a line for each
    draw   write the table of all lines

As in the viewer: ten slices of two scans are painted, a short fine-tuning learns from them and from all other
scans without their labels, and all scans are segmented. Each measure of quality then sorts the scans without
their labels, and is compared with the Dice against the labels, the mean over the classes: the rank
correlation (Spearman), and how many of the worst tenth of the scans stand in the first fifth of the queue.

The queue is sorted by the expected Dice, mean of the classes, which comes with the prediction and costs
nothing. What agrees with the orientations or with a rotated scan costs another pass over each scan.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from few_slices_data import DATA, DATASETS, open_dataset
from medssl.benchmarking.protocol import Material, annotate_for
from medssl.benchmarking.report import markdown_table
from medssl.benchmarking.results_log import append_records, read_records
from medssl.benchmarking.surroundings import Origin, describe_origins, machine_text, surroundings
from medssl.cli.terminal import Drawing, console, stop_on_interrupt, worker
from medssl.core.files import write_whole
from medssl.core.jobs import FinetuneJob
from medssl.core.labels.evaluate import reference_labels
from medssl.core.labels.metrics import dice
from medssl.core.project.project import Project

LINES = Path(__file__).parents[1] / "docs" / "benchmarks" / "review_queue.jsonl"
DATE = "%d %B %Y"
SLICES = 10
ANGLE = 0.2
"""Rotation in radians of the second look, within the range of the augmentation."""
Line = dict[str, Any]
Measure = Callable[[Line, Mapping[str, float]], float]
"""Quality of a prediction from its line, and the median volume of each class over the scans."""


def fine_tune(material: Material, seed: int, minutes: float, work: Callable[[Any], dict[str, Any]]) -> str:
    """Paint the slices of a seed and fine-tune; returns the run."""
    for scan in list(material.project.scans.values()):
        if scan.held_out:
            material.project.hold_out(scan.id, False)
    annotate_for(replace(material, test_every=len(material.dataset.pairs)), seed, SLICES)
    job = FinetuneJob(str(material.project.root), seed, minutes=minutes, settings={"threads": 1})
    return str(work(job)["run"])


def lines_of(material: Material, run_id: str, seed: int, options: argparse.Namespace) -> list[Line]:
    """Segment the scans that are not painted; a line for each."""
    from medssl.tasks.inference.predict import Trained  # torch

    project = material.project
    trained = Trained.of(project.run(run_id).checkpoint, run_id, "cpu")
    about = {"dataset": options.dataset, "seed": seed, "minutes": options.minutes, "every": options.every,
             "machine": surroundings("cpu"), "date": time.strftime(DATE)}  # fmt: skip
    painted = project.annotated()
    labelled = {material.scan_ids[image]: labels for image, labels in material.dataset.pairs}
    return [
        {**about, "scan": scan, **measured(trained, project, scan, labels)}
        for scan, labels in list(labelled.items())[:: options.every]
        if scan not in painted
    ]


def measured(trained: Any, project: Project, scan: str, reference: Path) -> Line:
    """What is known of one prediction, and its Dice."""
    slabs: list[np.ndarray] = []
    begin = time.monotonic()
    labels, expected = trained.segmentation(project, scan, slabs.append)
    seconds = time.monotonic() - begin
    scores = np.concatenate(slabs)
    ids = trained.ids[1:].tolist()
    work = np.transpose(labels, trained.plan.work_axes)
    own = replace(trained, plan=replace(trained.plan, multiplanar=False)).labels(project, scan)
    truth = dice(labels, reference_labels(project.scans[scan], reference), ids)
    return {
        "dice": _by_class(truth),
        "expected": _by_class(expected),
        "confidence": _by_class({i: float(scores[:, n][work == i].mean()) if (work == i).any() else 0.0
                                 for n, i in enumerate(ids, 1)}),
        "uncertainty": _uncertainty(scores, work),
        "orientations": _by_class(dice(labels, own, ids)),
        "rotated": _by_class(dice(labels, _rotated(trained, project, scan), ids)),
        "adjacent_slices": _by_class({i: _agreement_of_slices(work == i) for i in ids}),
        "largest": _by_class({i: _largest(labels == i) for i in ids}),
        "voxels": _by_class({i: int((labels == i).sum()) for i in ids}),
        "seconds": round(seconds, 3),
    }  # fmt: skip


def _by_class(values: Mapping[int, float]) -> dict[str, float | None]:
    return {str(key): None if math.isnan(value) else round(value, 5) for key, value in values.items()}


def _uncertainty(scores: np.ndarray, work: np.ndarray) -> float:
    """Entropy of the scan per labelled voxel, relative to its maximum."""
    entropy = -(scores * np.log(scores.clip(1e-9))).sum(1) / math.log(scores.shape[1])
    return round(float(entropy.sum() / max(1, np.count_nonzero(work))), 5)


def _rotated(trained: Any, project: Project, scan: str) -> np.ndarray:
    """Labels of the scan rotated in its slices, rotated back."""
    from medssl.tasks.inference.predict import segment
    from scipy.ndimage import rotate

    rows = tuple(axis for axis in range(3) if axis != trained.plan.slice_axis)
    turn: dict[str, Any] = {"axes": rows, "reshape": False, "mode": "nearest"}
    image = rotate(np.asarray(project.image(scan), np.float32), math.degrees(ANGLE), order=1, **turn)
    spacing = project.scans[scan].geometry.spacing_mm
    labels, _ = segment(trained.network, trained.plan, [image], spacing, trained.device)
    return rotate(trained.ids[labels], -math.degrees(ANGLE), order=0, **turn)


def _agreement_of_slices(mask: np.ndarray) -> float:
    """Dice between each slice and the next, over the whole structure."""
    both = 2 * np.count_nonzero(mask[1:] & mask[:-1])
    return both / max(1, np.count_nonzero(mask[1:]) + np.count_nonzero(mask[:-1]))


def _largest(mask: np.ndarray) -> float:
    """Part of a class in its largest component."""
    from scipy.ndimage import label

    components, count = label(mask)
    return float(np.bincount(components.ravel())[1:].max() / mask.sum()) if count else 0.0


# --- the measures ------------------------------------------------------------------------------------


def _mean(name: str) -> Measure:
    return lambda line, medians: float(np.mean([value or 0.0 for value in line[name].values()]))


def _least(name: str) -> Measure:
    return lambda line, medians: min(value or 0.0 for value in line[name].values())


def _volume(line: Line, medians: Mapping[str, float]) -> float:
    """Mean over classes of the smaller of volume and median volume, divided by the larger."""
    parts = [sorted((line["voxels"][key], median)) for key, median in medians.items()]
    return float(np.mean([low / max(high, 1) for low, high in parts]))


def _product(*measures: Measure) -> Measure:
    return lambda line, medians: math.prod(measure(line, medians) for measure in measures)


def _with_volume(line: Line, medians: Mapping[str, float]) -> float:
    """Mean over classes of the expected Dice times the ratio to the median volume."""
    values = []
    for key, median in medians.items():
        low, high = sorted((line["voxels"][key], median))
        values.append((line["expected"][key] or 0.0) * low / max(high, 1))
    return float(np.mean(values))


MEASURES: dict[str, Measure] = {
    "expected Dice, mean of the classes": _mean("expected"),
    "expected Dice, worst class": _least("expected"),
    "probability of the labels, mean of the classes": _mean("confidence"),
    "entropy per labelled voxel": lambda line, medians: -line["uncertainty"],
    "agreement of the orientations": _mean("orientations"),
    "agreement with the rotated scan": _mean("rotated"),
    "agreement of adjacent slices": _mean("adjacent_slices"),
    "part in the largest component": _mean("largest"),
    "volume beside that of the other scans": _volume,
    "expected Dice x volume": _with_volume,
    "expected Dice x largest component": _product(_mean("expected"), _mean("largest")),
    "expected Dice x orientations": _product(_mean("expected"), _mean("orientations")),
    "expected Dice x rotated": _product(_mean("expected"), _mean("rotated")),
    "expected Dice x orientations x volume": _product(_mean("orientations"), _with_volume),
    "expected Dice x rotated x volume": _product(_mean("rotated"), _with_volume),
}


def true_dice(line: Line) -> float:
    """Mean over the classes that are in the prediction or in the reference."""
    return float(np.mean([value for value in line["dice"].values() if value is not None]))


def ranking(lines: Sequence[Line], measure: Measure) -> tuple[float, float]:
    """Spearman's rank correlation with the Dice, and the part of the worst tenth in the first fifth."""
    from scipy.stats import spearmanr

    keys = lines[0]["voxels"]
    medians = {key: float(np.median([line["voxels"][key] for line in lines])) for key in keys}
    quality = np.array([measure(line, medians) for line in lines])
    truth = np.array([true_dice(line) for line in lines])
    worst = np.argsort(truth, kind="stable")[: max(1, math.ceil(len(lines) / 10))]
    first = np.argsort(quality, kind="stable")[: math.ceil(len(lines) / 5)]
    return float(spearmanr(quality, truth).statistic), len(set(worst) & set(first)) / len(worst)


def draw(path: Path, page: Path) -> str:
    """Write the page; returns its text."""
    lines = read_records(path)
    parts = ["# The review queue", "\n\n".join((__doc__ or "").split("\n\n")[2:]).strip()]
    for key in dict.fromkeys(map(key_of, lines)):
        parts.append(_section([line for line in lines if key_of(line) == key]))
    text = "\n\n".join(parts) + "\n"
    write_whole(page, lambda file: file.write(text.encode()))
    return text


def _section(lines: Sequence[Line]) -> str:
    seeds = sorted({line["seed"] for line in lines})
    groups = [[line for line in lines if line["seed"] == seed] for seed in seeds]
    first, values = lines[0], [true_dice(line) for line in lines]
    rows = []
    for name, measure in MEASURES.items():
        ranked = [ranking(group, measure) for group in groups]
        of_seeds = " / ".join(f"{rho:.2f}" for rho, _ in ranked)
        rho, share = np.mean(ranked, axis=0)
        rows.append([name, f"{rho:.2f}", of_seeds, f"{share:.0%}"])
    heading = ["sorted by", "rank correlation", "of each seed", "worst tenth in the first fifth"]
    return "\n".join(
        [
            f"## {first['dataset']}\n",
            f"`python benchmarks/review_queue.py run --dataset {first['dataset']} --every {first['every']} "
            f"--minutes {first['minutes']:g} --seeds {','.join(map(str, seeds))} --work FOLDER`\n",
            f"Seeds {', '.join(map(str, seeds))}: a fine-tuning of {first['minutes']:g} minutes each, "
            f"{len(groups[0])} scans, Dice {np.mean(values):.2f} ({np.min(values):.2f} to "
            f"{np.max(values):.2f}); {describe_origins(map(_origin, lines), 'line')}.\n",
            markdown_table(heading, rows, text=(0, 2)),
        ]
    )


def _origin(line: Line) -> Origin:
    machine = line["machine"]
    day = datetime.strptime(line["date"], DATE).date()
    return Origin(day, machine_text(machine, threads=1), str(machine["commit"]))


def key_of(line: Line) -> tuple[Any, ...]:
    """What the lines of a table have in common."""
    return tuple(line[name] for name in ("dataset", "minutes", "every"))


# --- the command -------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> None:
    """Run the seeds that have no line yet."""
    done = {(key_of(line), line["seed"]) for line in read_records(options.out)}
    screen = console()
    with stop_on_interrupt(screen) as should_stop:
        work = worker(screen, should_stop)
        with Drawing(screen) as drawing:
            material = open_dataset(options.data, options.dataset, options.work, drawing.emit)
        for seed in map(int, options.seeds.split(",")):
            if (key_of(vars(options)), seed) in done:
                continue
            run_id = fine_tune(material, seed, options.minutes, work)
            lines = lines_of(material, run_id, seed, options)
            append_records(options.out, lines)
            screen.print(f"seed {seed}: Dice {np.mean([true_dice(line) for line in lines]):.3f}")


def main() -> None:
    """Run or draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run", help="run the seeds that have no line yet")
    runner.add_argument("--data", type=Path, default=DATA, help="folder of data sets")
    runner.add_argument("--dataset", default="hippocampus", choices=sorted(DATASETS))
    runner.add_argument("--seeds", default="0,1,2,3,4")
    runner.add_argument("--minutes", type=float, default=1.0, help="training time")
    runner.add_argument("--every", type=int, default=1, help="segment every second scan, every third, ...")
    runner.add_argument("--work", type=Path, required=True, help="scratch folder for the project")
    drawer = commands.add_parser("draw", help="make the table")
    drawer.add_argument("--page", type=Path, default=LINES.with_suffix(".md"), help="where the table goes")
    for each in (runner, drawer):
        each.add_argument("--out", type=Path, default=LINES, help="file of JSON lines")
    options = parser.parse_args()
    if options.command == "draw":
        print(draw(options.out, options.page))
    else:
        run(options)


if __name__ == "__main__":
    main()
