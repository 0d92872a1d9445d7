"""Dice of labels interpolated between complete slices: python benchmarks/between_slices.py

Complete slices are painted from the reference labels: every n-th slice of the structures and one two slices
beyond each end, on scans on which no constant of the methods was chosen; or the slices and scans of
docs/benchmarks/few_slices.md (ten slices on two scans, three seeds). They are interpolated by shapes alone
and guided by the scan. Judged are the slices between them, and the whole scan.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from few_slices_data import DATA, DATASETS
from medssl.benchmarking.dataset import read_dataset, split
from medssl.benchmarking.protocol import ANNOTATED_SCANS
from medssl.benchmarking.simulated_annotator import MARGIN_SLICES, annotate, choose_slices
from medssl.core.io.labels import read_labels
from medssl.core.io.volume import read_scan
from medssl.core.labels.metrics import dice
from medssl.core.labels.shape_interpolation import interpolate
from rich.console import Console
from rich.table import Table

GAPS = (4, 8)
FIRST = 2
"""Of the sorted scans; others were used to choose constants."""
PROTOCOL = 5
"""Slices of a scan in the protocol of few_slices.md."""
SEEDS = range(3)


def every(labels: np.ndarray, step: int) -> list[int]:
    """Every `step`-th slice of the structures (Z, Y, X), from two before the first to two after the last."""
    used = np.flatnonzero(labels.any(axis=(1, 2)))
    last = min(int(used[-1]) + MARGIN_SLICES, len(labels) - 1)
    return sorted({*range(max(int(used[0]) - MARGIN_SLICES, 0), last, step), last})


def drawn(pairs: Sequence[tuple[Path, Path]], test_every: int) -> list[tuple[Path, Path]]:
    """The scans that the seeds of the protocol draw, with their labels."""
    rest = split(pairs, test_every)[1]
    draws = [
        np.random.default_rng(seed).choice(len(rest), size=ANNOTATED_SCANS, replace=False) for seed in SEEDS
    ]
    return [rest[index] for index in np.concatenate(draws)]


def mean_dice(result: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes that occur in the reference labels (any shape)."""
    return float(np.nanmean(list(dice(result, labels, [int(i) for i in np.unique(labels) if i]).values())))


def judge(
    scan: np.ndarray, labels: np.ndarray, slices: Sequence[int], spacing_mm: Sequence[float]
) -> np.ndarray:
    """Dice between the slices, Dice of the scan, and seconds, of shapes alone and guided: float64 (2, 3).

    Args:
        scan: Grey values (Z, Y, X).
        labels: Reference labels (Z, Y, X).
        slices: The complete slices.
        spacing_mm: Voxel spacing along (z, y, x).
    """
    painted = annotate(labels, slices).labels
    classes = [int(i) for i in np.unique(painted) if i]
    between = np.setdiff1d(np.arange(slices[0], slices[-1] + 1), slices)
    rows = []
    for grey in (None, scan):
        begin = time.monotonic()
        result = interpolate(painted, slices, classes, spacing_mm[1:], grey, spacing_mm[0])
        seconds = time.monotonic() - begin
        rows.append((mean_dice(result[between], labels[between]), mean_dice(result, labels), seconds))
    return np.array(rows)


def figures_of(scan: Path, reference: Path, gap: int | None) -> np.ndarray:
    """The figures of `judge` for a scan and its labels: every `gap`-th slice, or those of the protocol."""
    volume, labels = read_scan(scan), read_labels(reference).array.astype(np.uint8)
    slices = every(labels, gap) if gap else choose_slices(labels, PROTOCOL)
    return judge(volume.array, labels, slices, volume.geometry.spacing_mm)


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--scans", type=int, default=12, help="at most, of each data set")
    options = parser.parse_args()
    table = Table(title="Dice between complete slices, and of the scan; scans that gain; seconds of a scan")
    for name in ("data", "slices", "shapes", "guided", "gain", "scan: shapes", "guided", "seconds"):
        table.add_column(name, justify="right")
    for name, source in DATASETS.items():
        pairs = read_dataset(options.data / source.folder).pairs
        for gap in (*GAPS, None):
            chosen = pairs[FIRST :: source.test_every] if gap else drawn(pairs, source.test_every)
            figures = np.array([figures_of(*pair, gap) for pair in chosen[: options.scans]])
            mean, gains = figures.mean(0), (figures[:, 1, 0] > figures[:, 0, 0]).sum()
            table.add_row(
                name, f"every {gap}th" if gap else f"{PROTOCOL} of a scan", f"{mean[0, 0]:.3f}",
                f"{mean[1, 0]:.3f}", f"{gains} of {len(figures)}", f"{mean[0, 1]:.3f}", f"{mean[1, 1]:.3f}",
                f"{mean[0, 2]:.2f}, {mean[1, 2]:.2f}",
            )  # fmt: skip
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
