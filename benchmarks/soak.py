"""Damage, kills, faulty disks and two writers, for as long as wanted: python benchmarks/soak.py --minutes 60

Each trial has one outcome, counted in a table (docs/benchmarks/soak.md with --page):

    right               everything is as it should be
    refused             a UserError: one sentence with a way out
    other, no checksum  a value that differs, in a file whose format has no checksum
    other               a value that differs in silence, although there is a checksum
    lost                a stroke, a scan, or a checkpoint is gone, or something is left behind
    traceback           any other exception, or a process that ended by itself
    hang                no answer within a minute

Exit code 1 if there was any of the last four. The same seed draws the same trials, apart from the moments of
kills, which depend on the machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Protocol

import numpy as np
from medssl.benchmarking.report import markdown_table
from medssl.benchmarking.surroundings import surroundings
from medssl.core.files import write_whole
from soak_damage import Damage, Trial
from soak_disk import BadDisk
from soak_kills import Painter, Trainer, TwoWriters

OUTCOMES = ("right", "refused", "other, no checksum", "other", "lost", "traceback", "hang")
FAILURES = OUTCOMES[3:]
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "soak.md"


class Part(Protocol):
    """Something that is tried again and again."""

    def trial(self, random: np.random.Generator) -> Trial:
        """Try once."""
        ...


PARTS: dict[str, tuple[type, float]] = {
    "damage": (Damage, 0.55),
    "disk": (BadDisk, 0.1),
    "painter": (Painter, 0.1),
    "trainer": (Trainer, 0.15),
    "writers": (TwoWriters, 0.1),
}
"""Class and fraction of the time."""


def soak(
    minutes: float, seed: int, names: list[str], work: Path
) -> tuple[Counter[tuple[str, str]], list[Trial]]:
    """Run trials for some minutes; returns their counts by (kind, outcome), and the failures."""
    import torch

    torch.set_num_threads(1)
    parts = {name: PARTS[name][0](work / name) for name in names}
    random = np.random.default_rng(seed)
    spent = dict.fromkeys(names, 0.0)
    counts: Counter[tuple[str, str]] = Counter()
    failures = []
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        name = min(names, key=lambda name: spent[name] / PARTS[name][1])
        begin = time.monotonic()
        trial = parts[name].trial(random)
        spent[name] += time.monotonic() - begin
        counts[(trial.kind, trial.outcome)] += 1
        if trial.outcome in FAILURES:
            failures.append(trial)
            print(f"{trial.kind}: {trial.outcome}: {trial.detail}", flush=True)
    return counts, failures


def table(counts: Counter[tuple[str, str]]) -> str:
    """Markdown: a row for each kind of trial, a column for each outcome."""
    kinds = sorted({kind for kind, _ in counts})
    rows = []
    for kind in [*kinds, "all"]:
        row = [
            sum(n for (each, o), n in counts.items() if kind in (each, "all") and o == outcome)
            for outcome in OUTCOMES
        ]
        rows.append([kind, *map(str, [sum(row), *row])])
    return markdown_table(["", "trials", *OUTCOMES], rows)


def main() -> None:
    """Run the trials and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--page", action="store_true", help=f"write {PAGE.name}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts, failures = soak(options.minutes, options.seed, options.parts.split(","), Path(folder))
    text = table(counts)
    print(text)
    if options.page:
        machine = surroundings("cpu")
        head = (
            "# Soak test\n\n"
            f"`python benchmarks/soak.py --minutes {options.minutes:g} --seed {options.seed}`, "
            f"{date.today():%d %B %Y}, {machine['cpu']}, commit {machine['commit']}.\n\n"
            f"{(__doc__ or '').partition(chr(10))[2].strip()}\n\n"
        )
        write_whole(PAGE, lambda file: file.write((head + text + "\n").encode()))
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
