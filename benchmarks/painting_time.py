"""Seconds of painting to a Dice, by a simulated user with a mouse: python benchmarks/painting_time.py

    run    paint each scan in each way that has no line yet, and append a line for each
    draw   write the tables of all lines

A simulated user (medssl.benchmarking.mouse_painting) segments a scan as its reference labels say. Every
stroke, click, key and look has its seconds; waiting for a training does not count. What counts is the Dice of
the whole scan, the mean over the classes, of what is painted, interpolated and predicted at that moment:

- **brush alone**: slice after slice from end to end, each painted whole.
- **shapes**, **guided fill**: one slice in eight is painted whole (at least five), then *Interpolate*, by
  shapes only or guided by the scan. The user looks through all slices, corrects the worst one, accepts it
  (K), interpolates again, and so on.
- **proposals**: the same slices are painted, then the shipped weights are fine-tuned on them for a minute.
  The user looks through the prediction, accepts the worst slice (U) and corrects it, and so on. A slice with
  more mistakes than it is worth is not accepted, but painted whole.
- **next scan**: the same, but the network has learned from such slices of two other scans, and nothing of
  this scan is painted before.

What is thicker than a pixel is corrected first, in all slices; then all the rest, so that each way ends with
exactly the reference labels. Classes that leave the scan at its first or last slice are not painted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from few_slices_data import DATA, DATASETS
from medssl import engine
from medssl.benchmarking.mouse_painting import Effort
from medssl.benchmarking.report import markdown_table
from medssl.benchmarking.results_log import append_records, read_records
from medssl.benchmarking.simulated_annotator import annotate
from medssl.benchmarking.surroundings import Origin, describe_origins, machine_text, surroundings
from medssl.core.files import write_whole
from medssl.core.jobs import FinetuneJob
from medssl.core.palette import class_color
from medssl.core.project.project import Annotation, LabelClass, Project
from painting_ways import BY_HAND, Case, Curve, with_proposals

FINDINGS = """\
**How to read it.** The user traces to the pixel, so compare the ways rather than the seconds. The Dice counts
what nobody has painted as missing, so the brush alone is slow by nature until it has been everywhere. One
training seed.

**What it shows.** To a Dice of 0.9 the guided fill takes 0.42 of the time of the brush alone on the
hippocampus, and 0.15 to 0.28 on the three CTs. Filling by shapes alone takes a third longer, except on the
torso, where the slices painted first suffice. Proposals are quicker still on the hippocampus to 0.9 (0.30)
and slower beyond; on the spleen they are on a par to 0.9, on the abdomen to 0.85, and on the torso, where a
minute is too short for what 28 slices show, they take four times as long for 0.9 as the guided fill. The next
scan needs no painting for a Dice of 0.8, but 0.9 is reached sooner by painting five of its own slices. For
the last pixels nothing saves time: from 0.98 on, the hippocampus is painted sooner whole, because each
correction needs a stroke of its own."""

LINES = Path(__file__).parents[1] / "docs" / "benchmarks" / "painting_time.jsonl"
DATE = "%d %B %Y"
BRUSH = "brush alone"
COMPARED, SPEEDS = "0.9", {"half as long": 0.5, "as long": 1.0, "twice as long": 2.0}
TARGETS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 1.0)
WAYS = (*BY_HAND, "proposals", "next scan")
TEACHERS = 2
"""Scans whose slices teach the network before the next scan."""
FIRST, EVERY = 2, 20
"""Scans of the hippocampus; on the first two, constants of the interpolation were chosen."""
CT_DEMO = ("msd_spleen_crop", "totalseg_abdomen", "torso_cervical")
SEED = 0


# --- the network -------------------------------------------------------------------------------------


class Network:
    """A project with some scans, in which a network learns from the slices of some of them."""

    def __init__(self, root: Path, cases: Sequence[Case], minutes: float) -> None:
        ids = sorted({label for case in cases for label in case.classes})
        classes = [LabelClass(each, f"class {each}", class_color(each)) for each in ids]
        self.project, self.minutes = Project.create(root, classes, or_open=True), minutes
        known = {Path(scan.source): scan.id for scan in self.project.scans.values()}
        self.scans = {
            case.image: known.get(case.image.resolve()) or self.project.add_scan(case.image).id
            for case in cases
        }

    def learn(self, cases: Sequence[Case]) -> tuple[Callable[[Case], np.ndarray], float]:
        """Fine-tune on the first slices of these scans alone.

        Returns:
            What predicts a scan, and the seconds of the training.
        """
        from medssl.tasks.inference.predict import Trained  # torch

        for scan in self.project.annotated():
            empty = np.zeros(self.project.image(scan).shape, np.uint8)
            self.project.save_annotation(scan, Annotation(labels=empty, complete=()))
        for case in cases:
            self.project.save_annotation(self.scans[case.image], annotate(case.labels, case.first_slices))
        settings = {"threads": 1}
        job = FinetuneJob(str(self.project.root), SEED, "cpu", minutes=self.minutes, settings=settings)
        begin = time.monotonic()
        run = str(engine.run(job, lambda event: None, lambda: False)["run"])
        seconds = time.monotonic() - begin
        trained = Trained.of(self.project.run(run).checkpoint, run, "cpu")
        return lambda case: trained.labels(self.project, self.scans[case.image]), seconds


# --- the lines ---------------------------------------------------------------------------------------


def images(data: Path, dataset: str) -> tuple[list[Path], list[Path]]:
    """The scans of a data set to paint, and those that can teach a network before."""
    if dataset == "ct_demo":
        return [next((data / "CT_demo" / name / "imagesTr").glob("*.nii.gz")) for name in CT_DEMO], []
    every = sorted((data / DATASETS[dataset].folder / "imagesTr").glob("*.nii.gz"))
    painted = every[FIRST::EVERY]
    rest = [image for image in every if image not in painted]
    drawn = np.random.default_rng(SEED).choice(len(rest), TEACHERS, replace=False)
    return painted, [rest[index] for index in sorted(drawn)]


def run(options: argparse.Namespace) -> None:
    """Paint the scans in the ways that have no line yet."""
    about = {"seed": SEED, "minutes": options.minutes, "until": options.until, "machine": surroundings("cpu"),
             "date": time.strftime(DATE)}  # fmt: skip
    done = {(line["scan"], line["way"], key_of(line)) for line in read_records(options.out)}
    for dataset in options.datasets.split(","):
        cases, teachers = (
            [Case.read(image, options.until) for image in each] for each in images(options.data, dataset)
        )

        def missing(way: str, dataset: str = dataset, cases: Sequence[Case] = cases) -> list[Case]:
            key = key_of({"dataset": dataset, **about})
            return [case for case in cases if (case.name, way, key) not in done]

        def write(case: Case, way: str, curve: Curve, waited_s: float = 0.0, dataset: str = dataset) -> None:
            line = {"dataset": dataset, "scan": case.name, "way": way, **about, "waited_s": round(waited_s),
                    "slices": [len(case.first_slices), len(case.all_slices)],
                    "classes": len(case.classes), "reached": first_reached(curve)}  # fmt: skip
            append_records(options.out, [line])
            print(dataset, case.name, way, f"{curve[-1][0].seconds:.0f} s", flush=True)

        for way, painted in BY_HAND.items():
            for case in missing(way):
                write(case, way, painted(case))
        for case in missing("proposals"):
            network = Network(options.work / case.name, [case], options.minutes)
            predict, waited_s = network.learn([case])
            write(case, "proposals", with_proposals(case, predict(case), case.first_slices), waited_s)
        if teachers and missing("next scan"):
            network = Network(options.work / dataset, [*cases, *teachers], options.minutes)
            predict, waited_s = network.learn(teachers)
            for case in missing("next scan"):
                write(case, "next scan", with_proposals(case, predict(case), ()), waited_s)


def key_of(line: Mapping[str, Any]) -> tuple[Any, ...]:
    """What the lines of a table have in common."""
    return tuple(line[name] for name in ("dataset", "minutes", "until", "seed"))


def first_reached(curve: Curve) -> dict[str, dict[str, float]]:
    """{target: what had been done when the Dice first reached it}, of those that were reached."""
    reached = {}
    for target in TARGETS:
        efforts = [effort for effort, dice in curve if dice >= target - 1e-9]
        if efforts:
            reached[f"{target:g}"] = {name: round(value, 2) for name, value in asdict(efforts[0]).items()}
    return reached


# --- the page ----------------------------------------------------------------------------------------


def seconds(line: Mapping[str, Any], target: str, slower: float = 1.0) -> float:
    """Seconds of painting to a Dice.

    Args:
        line: A line of the file.
        target: A key of its "reached".
        slower: Factor for the time along outlines.
    """
    effort = Effort(**line["reached"][target])
    return replace(effort, traced_s=slower * effort.traced_s).seconds


def draw(path: Path, page: Path) -> str:
    """Write the page; returns its text."""
    lines = read_records(path)
    parts = ["# Seconds of painting", "\n\n".join((__doc__ or "").split("\n\n")[2:]).strip(), FINDINGS]
    for key in dict.fromkeys(map(key_of, lines)):
        parts.append(_tables([line for line in lines if key_of(line) == key]))
    text = "\n\n".join(parts) + "\n"
    write_whole(page, lambda file: file.write(text.encode()))
    return text


def _tables(lines: Sequence[Mapping[str, Any]]) -> str:
    first, scans = lines[0], list(dict.fromkeys(line["scan"] for line in lines))
    ways = [way for way in WAYS if any(line["way"] == way for line in lines)]
    waited = [line["waited_s"] for line in lines if line["waited_s"]]
    head = (
        f"## {first['dataset']}\n\n`python benchmarks/painting_time.py run --datasets {first['dataset']} "
        f"--minutes {first['minutes']:g} --until {first['until']:g} --work FOLDER`\n\n"
        f"{len(scans)} scans, seed {first['seed']}; {describe_origins(map(_origin, lines), 'line')}. "
        f"Slices painted first, of all: {_slices(lines)}. Seconds, median of the scans; in brackets the part "
        "of *brush alone* in the same scan, median."
        + (f" Training: {np.median(waited):.0f} s of waiting." if waited else "")
    )
    reached = [f"{target:g}" for target in TARGETS if any(f"{target:g}" in line["reached"] for line in lines)]
    tables = {
        "Dice": [_row(lines, ways, target, target) for target in reached],
        f"Dice {COMPARED}, outlines take": [
            _row(lines, ways, text, COMPARED, slower) for text, slower in SPEEDS.items()
        ],
        f"Dice {COMPARED} of each scan": [
            _row([line for line in lines if line["scan"] == scan], ways, scan, COMPARED) for scan in scans
        ],
    }
    return "\n\n".join([head, *(markdown_table([title, *ways], rows) for title, rows in tables.items())])


def _origin(line: Mapping[str, Any]) -> Origin:
    machine = line["machine"]
    day = datetime.strptime(line["date"], DATE).date()
    return Origin(day, machine_text(machine, threads=1), str(machine["commit"]))


def _slices(lines: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(
        f"{first} of {every}" for first, every in sorted({tuple(each["slices"]) for each in lines})
    )


def _row(
    lines: Sequence[Mapping[str, Any]], ways: Sequence[str], text: str, target: str, slower: float = 1.0
) -> list[str]:
    took = {
        (line["way"], line["scan"]): seconds(line, target, slower)
        for line in lines
        if target in line["reached"]
    }
    every = len({line["scan"] for line in lines})
    return [text, *(_cell(took, way, every) for way in ways)]


def _cell(took: Mapping[tuple[str, str], float], way: str, every: int) -> str:
    """Median seconds of a way, and the median part of *brush alone* in the scans that have both."""
    of_scans = {scan: each for (other, scan), each in took.items() if other == way}
    if not of_scans:
        return "–"
    parts = [each / took[BRUSH, scan] for scan, each in of_scans.items() if (BRUSH, scan) in took]
    notes = [f"{np.median(parts):.2f}"] if parts else []
    notes += [f"{len(of_scans)} of {every} scans"] if len(of_scans) < every else []
    return f"{np.median(list(of_scans.values())):.0f}" + (f" ({', '.join(notes)})" if notes else "")


# --- the command -------------------------------------------------------------------------------------


def main() -> None:
    """Run or draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run", help="paint the scans in the ways that have no line yet")
    runner.add_argument("--data", type=Path, default=DATA, help="folder of data sets")
    runner.add_argument("--datasets", default="hippocampus,ct_demo")
    runner.add_argument("--minutes", type=float, default=1.0, help="training time")
    runner.add_argument("--until", type=float, default=1.0, help="Dice with which the user is content")
    runner.add_argument("--work", type=Path, required=True, help="scratch folder for projects")
    drawer = commands.add_parser("draw", help="make the tables")
    drawer.add_argument("--page", type=Path, default=LINES.with_suffix(".md"), help="where the tables go")
    for each in (runner, drawer):
        each.add_argument("--out", type=Path, default=LINES, help="file of JSON lines")
    options = parser.parse_args()
    if options.command == "draw":
        print(draw(options.out, options.page))
    else:
        run(options)


if __name__ == "__main__":
    main()
