"""Dice with suggested slices and with evenly spaced ones: python benchmarks/next_slice.py

    run    run the cells (arm x seed) that have no line yet, and append a line for each
    draw   write the table of all lines

A simulated annotator completes ten slices, chosen in one of three ways. Training on the ten slices takes the
same time for all; the short fine-tunings before suggestions take additional time, as during annotation. Test
scans are held out (medssl.benchmarking.protocol):

    suggested   a few evenly spaced slices on the two scans of the seed first; then, in rounds, a short
                fine-tuning and the slices that it suggests in all scans (tasks/active_learning)
    spread      evenly spaced slices of the structure, on as many scans as the suggestions used, to measure
                the effect of more scans alone
    even        evenly spaced slices on the two scans of the seed: the default protocol

Ctrl-C stops; the same command resumes with missing cells.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from few_slices import DATA, DATASETS, forget_weights, open_dataset
from few_slices_page import measured
from few_slices_page import spread as spread_of
from medssl.benchmarking import experiment, results_log
from medssl.benchmarking.experiment import Stopped, Work
from medssl.benchmarking.protocol import RANDOM, Assignment, Material, Settings, assign
from medssl.benchmarking.report import markdown_table
from medssl.benchmarking.results_log import Cell, Failure
from medssl.benchmarking.simulated_annotator import annotate, choose_slices
from medssl.cli.terminal import Drawing, console, stop_on_interrupt, worker
from medssl.core.errors import UserError
from medssl.core.files import write_whole
from medssl.core.jobs import FinetuneJob, SuggestJob
from medssl.core.labels.evaluate import reference_labels

LINES = Path(__file__).parents[1] / "docs" / "benchmarks" / "next_slice.jsonl"
ARMS = {
    "suggested": "suggested, round by round",
    "spread": "evenly spaced, on as many scans",
    "even": "evenly spaced, on two scans",
}
"""In order of execution: `spread` uses as many scans as `suggested` did."""


@dataclass(frozen=True)
class Protocol:
    """Settings that all cells of a table share."""

    slices: int = 10
    start: int = 4
    """Evenly spaced slices before the first suggestion."""
    rounds: int = 2
    """Number of rounds of suggestions; they share the rest of `slices`."""
    round_share: float = 0.15
    """Additional time of the fine-tuning of a round, as a fraction of that of the final training."""
    minutes: float = 8.0
    device: str = "auto"
    judge: str = "test"

    @property
    def settings(self) -> Settings:
        """The settings of medssl.benchmarking.protocol."""
        return Settings(self.slices, self.minutes, self.device, self.judge)  # type: ignore[arg-type]

    def slices_per_round(self) -> list[int]:
        """Number of slices that each round suggests."""
        rest = self.slices - self.start
        return [rest // self.rounds + (number < rest % self.rounds) for number in range(self.rounds)]


def run_cell(material: Material, arm: str, seed: int, protocol: Protocol, scans: int, work: Work) -> Cell:
    """Run one arm with one seed.

    Args:
        material: The data set.
        arm: A key of ARMS.
        seed: Draws the scans.
        protocol: The settings.
        scans: Number of scans on which `spread` annotates.
        work: Runs a job.
    """
    if arm == "suggested":
        return _suggested(material, seed, protocol, work)
    assignment = assign(material, RANDOM, seed, protocol.settings)
    if arm == "spread":
        available = [scan for scan in material.rest if scan not in assignment.judged]
        drawn = np.random.default_rng(seed).permutation(len(available))[:scans]
        slices = spread(material, [available[number] for number in drawn], protocol.slices)
        assignment = _annotated(assignment, slices)
    return _line(arm, protocol, experiment.judge(assignment, experiment.train(assignment, work)), {})


def spread(material: Material, scans: Sequence[str], slices: int) -> dict[str, list[int]]:
    """{scan: slices}, evenly spaced through the structure; the scans take turns."""
    chosen: dict[str, list[int]] = {scan: [] for scan in scans}
    for number in range(slices):
        scan = scans[number % len(scans)]
        depths = choose_slices(_labels(material, scan), slices)
        chosen[scan].append(depths[min(number, len(depths) - 1)])
    return {scan: sorted(set(indices)) for scan, indices in chosen.items()}


def _suggested(material: Material, seed: int, protocol: Protocol, work: Work) -> Cell:
    """Annotate a few slices, then those that short fine-tunings suggest; finally train on all of them."""
    assignment = assign(material, RANDOM, seed, replace(protocol.settings, slices=protocol.start))
    common: dict[str, Any] = {"project": str(material.project.root), "seed": seed, "device": protocol.device}
    seconds: dict[str, float] = {}
    runs: dict[str, str] = {}
    reasons: list[str] = []
    for number, count in enumerate(protocol.slices_per_round(), 1):
        trained = work(FinetuneJob(**common, minutes=protocol.minutes * protocol.round_share))
        runs[f"round {number}"] = trained["run"]
        seconds[f"round {number}"] = trained["seconds"]
        begin = time.monotonic()
        suggested = work(SuggestJob(**common, count=count, weights=trained["run"]))["suggestions"]
        seconds["suggesting"] = seconds.get("suggesting", 0.0) + time.monotonic() - begin
        assignment = _annotated(assignment, _with(assignment.annotated, suggested))
        reasons += [each["reason"] for each in suggested]
    last = replace(assignment, settings=protocol.settings)
    outcome = experiment.train(last, work)
    outcome = replace(outcome, runs={**runs, **outcome.runs}, seconds={**seconds, **outcome.seconds})
    return _line("suggested", protocol, experiment.judge(last, outcome), {"reasons": reasons})


def _with(annotated: dict[str, list[int]], suggested: Sequence[dict[str, Any]]) -> dict[str, list[int]]:
    """The annotated and the suggested slices.

    Raises:
        UserError: "wrong-axis" for a slice that is not axial.
    """
    result = {scan: list(indices) for scan, indices in annotated.items()}
    for each in suggested:
        if each["axis"] != 0:
            raise UserError(
                "A slice that is not axial was suggested; use scans with thick axial slices.",
                code="wrong-axis",
            )
        result.setdefault(each["scan"], []).append(each["index"])
    return {scan: sorted(set(indices)) for scan, indices in result.items()}


def _annotated(assignment: Assignment, slices: dict[str, list[int]]) -> Assignment:
    """The assignment with exactly these slices annotated in the project."""
    material = assignment.material
    for scan in {*assignment.annotated, *slices}:
        annotation = annotate(_labels(material, scan), slices.get(scan, []))
        material.project.save_annotation(scan, annotation)
    return replace(assignment, annotated=slices)


def _labels(material: Material, scan: str) -> np.ndarray:
    if scan not in material.rest:
        raise UserError(f"{scan} has no reference labels; use labelled scans.", code="missing")
    return reference_labels(material.project.scans[scan], material.rest[scan])


def _line(arm: str, protocol: Protocol, cell: Cell, notes: dict[str, Any]) -> Cell:
    return replace(cell, method=arm, settings=asdict(protocol), notes={**cell.notes, **notes})


# --- the grid ----------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> None:
    """Run the cells without a result; a failure is recorded with its reason, and the next cell is run."""
    protocol = protocol_of(options)
    screen = console()
    cells = [(arm, seed) for seed in map(int, options.seeds.split(",")) for arm in ARMS]
    with stop_on_interrupt(screen) as should_stop:
        work = worker(screen, should_stop)
        with Drawing(screen) as drawing:
            material = open_dataset(options.data, options.dataset, options.work, drawing.emit)
        for arm, seed in cells:
            if _finished(options, arm, seed, protocol) is not None:
                continue
            screen.print(f"\n{options.dataset}, {ARMS[arm]}, seed {seed}", style="bold")
            try:
                line = attempt(material, arm, seed, protocol, options, work)
            except Stopped:
                screen.print("Stopped. The same command resumes with what is not finished.")
                return
            results_log.append(options.out, line)
            screen.print(line.failed if isinstance(line, Failure) else f"Dice {line.dice:.3f}")
            forget_weights(material.project, line)


def attempt(
    material: Material, arm: str, seed: int, protocol: Protocol, options: argparse.Namespace, work: Work
) -> Cell | Failure:
    """Run one cell; returns its result, or the reason of its failure."""
    try:
        suggested = _finished(options, "suggested", seed, protocol)
        if arm == "spread" and suggested is None:
            raise UserError("The suggestions of this seed are not finished; run them again.", code="order")
        scans = len(suggested.annotated) if suggested is not None else 0
        return run_cell(material, arm, seed, protocol, scans, work)
    except (Stopped, KeyboardInterrupt):
        raise
    except Exception as error:  # a defect of one cell must not end the grid
        return Failure.of(material.dataset.name, arm, seed, asdict(protocol), error)


def _finished(options: argparse.Namespace, arm: str, seed: int, protocol: Protocol) -> Cell | None:
    return results_log.finished(results_log.read_cells(options.out), options.dataset, arm, seed, protocol)


def draw(lines: Path, page: Path) -> str:
    """Write the page, with one table for each protocol; returns its text."""
    finished = results_log.read_cells(lines)
    protocol = (__doc__ or "").split("\n\n")[2:4]
    parts = ["# Suggested slices against evenly spaced ones", *protocol]
    settings: list[tuple[str, dict[str, Any]]] = []
    for cell in finished:
        if (cell.dataset, cell.settings) not in settings:
            settings.append((cell.dataset, cell.settings))
    for dataset, given in settings:
        cells = [cell for cell in finished if (cell.dataset, cell.settings) == (dataset, given)]
        parts.append(_table(dataset, given, cells))
    text = "\n\n".join(parts) + "\n"
    write_whole(page, lambda file: file.write(text.encode()))
    return text


def _table(dataset: str, given: dict[str, Any], cells: Sequence[Cell]) -> str:
    """Table of the newest cell of each arm and seed."""
    newest = list({(cell.method, cell.seed): cell for cell in cells}.values())
    newest.sort(key=lambda cell: (list(ARMS).index(cell.method), cell.seed))
    classes = list(newest[0].dice_of_class)
    lines = [
        f"## {dataset}, {given['slices']} slices, {given['minutes']:g} minutes, {given['device']}\n",
        *measured(newest),
        "",
        f"Suggestions begin with {given['start']} slices and come in {given['rounds']} rounds, each after "
        f"{given['round_share'] * given['minutes'] * 60:.0f} s of fine-tuning on top.\n",
    ]
    heading = ["slices", "seeds", "Dice", "of each seed", "scans annotated", *classes, "s to suggest"]
    rows = []
    for row in results_log.rows(newest):
        of_arm = [cell for cell in newest if cell.method == row.method]
        scans = sum(len(cell.annotated) for cell in of_arm) / len(of_arm)
        of_class = [_number(row.dice_of_class[name]) for name in classes]
        seconds = sum(cell.seconds.get("suggesting", 0.0) for cell in of_arm) / len(of_arm)
        dice = [cell.dice for cell in of_arm]
        each = " / ".join(map(_number, dice))
        seeds = ", ".join(map(str, row.seeds))
        rows.append(
            [ARMS[row.method], seeds, spread_of(dice, 3), each, f"{scans:.1f}", *of_class, f"{seconds:.0f}"]
        )
    return "\n".join([*lines, markdown_table(heading, rows, text=(0, 1, 3))])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def protocol_of(options: argparse.Namespace) -> Protocol:
    """The settings of a command line.

    Raises:
        UserError: "bad-setting", "no-dataset", "no-device".
    """
    from medssl.nn import devices

    if options.dataset not in DATASETS:
        raise UserError(
            f"Unknown data set {options.dataset!r}; choose from {', '.join(DATASETS)}.",
            code="no-dataset",
        )
    if not 0 < options.start < options.slices or not 1 <= options.rounds <= options.slices - options.start:
        raise UserError(
            f"{options.start} slices at first and {options.rounds} rounds do not fit into {options.slices} "
            "slices; each round needs at least one.",
            code="bad-setting",
        )
    if options.round_share <= 0:
        raise UserError("--round-share must be positive.", code="bad-setting")
    return Protocol(
        options.slices, options.start, options.rounds, options.round_share, options.minutes,
        devices.choose(options.device).type, options.judge,
    )  # fmt: skip


def arguments() -> argparse.ArgumentParser:
    """The parser of the command line."""
    defaults = Protocol()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run", help="run the cells that have no line yet")
    add = runner.add_argument
    add("--data", type=Path, default=DATA, help="folder of data sets")
    add("--dataset", default="hippocampus", help=f"of {', '.join(DATASETS)}")
    add("--seeds", default="0,1,2")
    add("--slices", type=int, default=defaults.slices, help="total number of annotated slices")
    add("--start", type=int, default=defaults.start, help="number of slices before the first suggestion")
    add("--rounds", type=int, default=defaults.rounds, help="number of rounds of suggestions")
    add(
        "--round-share",
        type=float,
        default=defaults.round_share,
        help="additional training of a round, a fraction",
    )
    add("--minutes", type=float, default=defaults.minutes, help="training time on all slices")
    others = "validation: on scans that are neither test scans nor annotated, to choose settings"
    add("--judge", choices=("test", "validation"), default=defaults.judge, help=others)
    add("--device", default=defaults.device)
    add("--out", type=Path, default=LINES, help="file of JSON lines")
    add("--work", type=Path, required=True, help="scratch folder for the project")
    drawer = commands.add_parser("draw", help="make the table")
    drawer.add_argument("--out", type=Path, default=LINES, help="file of JSON lines")
    drawer.add_argument("--page", type=Path, default=LINES.with_suffix(".md"), help="where the table goes")
    return parser


def main() -> None:
    """Run or draw."""
    options = arguments().parse_args()
    try:
        if options.command == "draw":
            print(draw(options.out, options.page))
        else:
            run(options)
    except UserError as error:
        raise SystemExit(f"Error: {error}") from None


if __name__ == "__main__":
    main()
