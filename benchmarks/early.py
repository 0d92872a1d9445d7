"""Initial weights compared after short fine-tuning on few slices: python benchmarks/early.py

    run    (default) run the cells that have no line yet, and append a line for each
    draw   write the table and the curves of all lines

The grid of few_slices.py, except that a fine-tuning is also evaluated after --marks seconds, without the time
for segmentation. 0 s is before the first step, with the first head only. Pre-training on the scans runs
before, once for all draws. --slices 1 is on one scan, more are on two; "all" is every slice of every scan
that is not judged.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from early_page import FIRST, GRID, SLICES, draw
from few_slices import Grid, add_options, grid_of, names_in, run
from few_slices_data import DATASETS, Source
from medssl.benchmarking.protocol import Early
from medssl.core.errors import UserError
from peers import PEERS

LINES = Path(__file__).parents[1] / "docs" / "benchmarks" / "early.jsonl"

SETS = {
    **DATASETS,
    "lung": Source("LungMRI_Tustison", test_every=2),
    "phantoms": Source("phantom-scans", test_every=4, phantoms=range(100, 112)),
}
"""Two of the five lung scans are annotated in every draw; the phantoms differ from those of the demo."""

WITH_SNAPSHOTS = ("nnunet_2d", "nnunet_3d_fullres")
"""Peers that can be evaluated during their training."""


def arguments() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", nargs="?", choices=("run", "draw"), default="run")
    add_options(parser)
    parser.set_defaults(
        datasets=",".join(SETS),
        methods=",".join(GRID),
        slices=",".join(map(str, SLICES)),
        seeds="0,1,2,3,4",
        pretrain_minutes=10.0,
        out=LINES,
        work=None,
    )
    add = parser.add_argument
    add("--marks", default="0,20,60,240", help="seconds of fine-tuning; it ends with the last")
    add("--max-judged", type=int, default=0, help="maximum number of judged scans, evenly spaced; 0 for all")
    add(
        "--also",
        type=Path,
        action="append",
        default=[],
        help="more lines to draw; may be given several times",
    )
    add("--page", type=Path, default=LINES.with_suffix(".md"), help="where draw puts the table")
    add("--drawn-slices", type=int, default=3, help="number of annotated slices in the figure")
    for action in parser._actions:
        action.required = False  # drawing needs no --work
    return parser


def early_grid(options: argparse.Namespace) -> Grid:
    """The grid of a command line.

    Raises:
        UserError: "no-dataset", "no-method", "bad-setting", "no-device".
    """
    if options.work is None:
        raise UserError("Give a scratch folder for projects with --work.", code="bad-setting")
    marks = tuple(sorted(float(each) for each in names_in(options.marks)))
    if not marks or marks[0] < 0 or marks[-1] <= 0 or options.pretrain_minutes <= 0:
        raise UserError(
            "--marks must not be negative, and the last mark and --pretrain-minutes must be positive.",
            code="bad-setting",
        )
    options.minutes, options.pretrain_share = marks[-1] / 60, 0.0
    # The first head alone is the result of its method at 0 s.
    options.methods = ",".join(each.removesuffix(FIRST) for each in names_in(options.methods))
    for method in names_in(options.methods):
        if method in PEERS and method not in WITH_SNAPSHOTS:
            raise UserError(
                f"{method} cannot be evaluated before its end; remove it from --methods.", code="no-method"
            )
    return grid_of(options, SETS, Early, marks_s=marks, max_judged=options.max_judged)


def main(command_line: Sequence[str] | None = None) -> None:
    """Run or draw."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    options = arguments().parse_args(command_line)
    try:
        if options.command == "draw":
            for path in draw([options.out, *options.also], options.page, list(SETS), options.drawn_slices):
                print(path)
        else:
            run(early_grid(options))
    except UserError as error:
        raise SystemExit(f"Error: {error}") from None


if __name__ == "__main__":
    main()
