"""Segmentation from a few annotated slices by several methods: python benchmarks/few_slices.py

    run    run the cells (data set x method x slices x seed) that have no line yet, and append a line for each
    draw   write the table and the curves of all lines
    early  compare initial weights after short fine-tuning (benchmarks/early.py)

The protocol is medssl.benchmarking.protocol: test scans are held out, the seed draws two of the other scans,
a simulated annotator completes axial slices on them, and every method gets the same training time.

Ctrl-C stops; the same command resumes with missing cells. Several runners can work at once, each with its own
--work folder and its own --seeds, --datasets or --methods.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from few_slices_data import DATA, DATASETS, Source, open_dataset
from few_slices_page import draw
from medssl.benchmarking import experiment, results_log
from medssl.benchmarking.experiment import Stopped, Work
from medssl.benchmarking.protocol import (
    ALL,
    PRETRAIN_SHARE,
    RANDOM,
    SHAPES,
    Combination,
    Material,
    Settings,
    assign,
)
from medssl.benchmarking.results_log import Cell, Failure
from medssl.cli.options import settings_from
from medssl.cli.terminal import Drawing, console, stop_on_interrupt, worker
from medssl.core.errors import UserError
from medssl.core.jobs import FinetuneJob
from medssl.core.methods import METHODS
from medssl.core.project.project import Project
from peers import PEERS, Bench

LINES = Path(__file__).parents[1] / "docs" / "benchmarks" / "few_slices.jsonl"


@dataclass(frozen=True)
class Grid:
    """The cells that are wanted, data set by data set, and seed by seed within: a grid that is stopped can be
    compared as far as it went."""

    data: Path
    sources: Mapping[str, Source]
    """Data sets by name."""
    methods: tuple[str, ...]
    slices: tuple[int, ...]
    seeds: tuple[int, ...]
    settings: Settings
    out: Path
    work: Path
    nnunet_env: Path
    mirroring: bool
    keep: bool

    def cells(self, dataset: str) -> Iterator[tuple[str, int, Settings]]:
        """Yield (method, seed, settings) of each cell of a data set."""
        for slices, seed, method in itertools.product(self.slices, self.seeds, self.methods):
            yield method, seed, settings_for(method, replace(self.settings, slices=slices))

    def peers_folder(self, dataset: str, method: str, seed: int, slices: int) -> Path:
        """Scratch folder of a peer, one per cell."""
        return self.work / "peers" / f"{dataset}-{method}-{slices}-{seed}"


def settings_for(method: str, settings: Settings) -> Settings:
    """The settings that apply to a method; peers have no recipes."""
    if method not in PEERS:
        return settings.concerning(method)
    nothing: dict[str, Any] = {"pretrain_recipe": "", "finetune_recipe": "", "pretrain": {}, "finetune": {}}
    return replace(settings, pretrain_share=0.0, pretrain_minutes=0.0, **nothing)


def run(grid: Grid) -> None:
    """Run the cells without a result; a failure is recorded with its reason, and the next cell is run."""
    screen = console()
    with stop_on_interrupt(screen) as should_stop:
        work = worker(screen, should_stop)
        for name, source in grid.sources.items():
            missing = [each for each in grid.cells(name) if not _finished(grid, name, *each)]
            screen.print(f"{name}: {len(missing)} cells to run", style="bold")
            if not missing:
                continue
            with Drawing(screen) as drawing:
                material = open_dataset(grid.data, name, grid.work, drawing.emit, source)
            for method, seed, settings in missing:
                if _finished(grid, name, method, seed, settings):  # by another runner in the meantime
                    continue
                count = "all" if settings.slices == ALL else settings.slices
                screen.print(f"\n{name}, {method}, {count} slices, seed {seed}", style="bold")
                try:
                    folder = grid.peers_folder(name, method, seed, settings.slices)
                    bench = Bench(folder, grid.nnunet_env, should_stop, grid.mirroring)
                    line = run_cell(material, method, seed, settings, work, bench)
                except Stopped:
                    screen.print("Stopped. The same command resumes with what is not finished.")
                    return
                results_log.append(grid.out, line)
                screen.print(line.failed if isinstance(line, Failure) else f"Dice {line.dice:.3f}")
                if not grid.keep:
                    forget_weights(material.project, line)
                    shutil.rmtree(folder, ignore_errors=True)


def run_cell(
    material: Material, method: str, seed: int, settings: Settings, work: Work, bench: Bench
) -> Cell | Failure:
    """Train and judge one cell; returns its result, or the reason of its failure."""
    try:
        assignment = assign(material, method, seed, settings)
        peer = PEERS.get(method)
        return experiment.judge(
            assignment, peer(assignment, bench) if peer else experiment.train(assignment, work)
        )
    except (Stopped, KeyboardInterrupt):
        raise
    except Exception as error:  # a defect of one method must not end the grid
        return Failure.of(material.dataset.name, method, seed, asdict(settings), error)


def forget_weights(project: Project, line: Cell | Failure) -> None:
    """Delete the checkpoints of a finished cell, because hundreds of cells would fill the disk.

    A pre-training that is shared by all seeds is kept.
    """
    for phase, run_id in line.runs.items() if isinstance(line, Cell) else ():
        if phase != "pretrain" or not line.settings["pretrain_minutes"]:
            for path in (project.root / "runs" / run_id).glob("*.safetensors"):
                path.unlink()


def _finished(grid: Grid, dataset: str, method: str, seed: int, settings: Settings) -> bool:
    cells = results_log.read_cells(grid.out)
    return results_log.finished(cells, dataset, method, seed, settings) is not None


def arguments() -> argparse.ArgumentParser:
    """The parser of the command line, except for `early` (benchmarks/early.py)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run", help="run the cells that have no line yet")
    add_options(runner)
    add = runner.add_argument
    add("--minutes", type=float, default=10.0, help="training time of a cell, pre-training included")
    add(
        "--pretrain-share",
        type=float,
        default=PRETRAIN_SHARE,
        help="fraction of a cell's time for pre-training",
    )
    drawer = commands.add_parser("draw", help="make the table and the curves")
    several = "file of JSON lines; may be given several times"
    drawer.add_argument("--out", type=Path, action="append", help=several)
    drawer.add_argument("--page", type=Path, default=LINES.with_suffix(".md"), help="where the table goes")
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that all grids share."""
    methods = f"weights or weights:semi (pgl, pgl:none, ...), or a peer: {', '.join(PEERS)}"
    add = parser.add_argument
    add("--data", type=Path, default=DATA, help="folder of data sets")
    add("--datasets", default="hippocampus", help=f"of {', '.join(DATASETS)}")
    add("--methods", default="random,mae,pgl,mae+pgl", help=methods)
    add("--nnunet-env", type=Path, help="environment of nnU-Net (created in --work if missing)")
    no_mirroring = "nnU-Net predicts without mirroring: slightly worse, eight times faster in 3D"
    add("--no-mirroring", action="store_true", help=no_mirroring)
    add("--slices", default="10", help="total number of annotated slices, on two scans")
    add("--seeds", default="0,1,2")
    in_addition = "additional minutes of pre-training, once for all seeds, instead of --pretrain-share"
    add("--pretrain-minutes", type=float, default=0.0, help=in_addition)
    add("--pretrain-recipe", default="quick")
    add("--finetune-recipe", default="quick")
    example = "finetune.learning_rate=0.001 or pretrain.ratio=0.75; repeatable"
    add("--set", action="append", metavar="PHASE.NAME=VALUE", dest="overrides", help=example)
    others = "validation: on scans that are neither test scans nor annotated, to choose settings"
    add("--judge", choices=("test", "validation"), default="test", help=others)
    add("--device", default="auto")
    add("--out", type=Path, default=LINES, help="file of JSON lines")
    add("--work", type=Path, required=True, help="scratch folder for projects, one for each runner")
    add("--keep", action="store_true", help="keep the weights of finished cells")


def grid_of(
    options: argparse.Namespace,
    sources: Mapping[str, Source] = DATASETS,
    kind: type[Settings] = Settings,
    **more: Any,
) -> Grid:
    """The grid of a command line.

    Args:
        options: The parsed command line.
        sources: Data sets by name.
        kind: Class of the settings.
        more: Further arguments of `kind`.

    Raises:
        UserError: "no-dataset", "no-method", "bad-setting", "no-device".
    """
    from medssl.nn import devices

    datasets = names_in(options.datasets)
    for name in datasets:
        if name not in sources:
            raise UserError(
                f"Unknown data set {name!r}; choose from {', '.join(sources)}.", code="no-dataset"
            )
    return Grid(
        data=options.data,
        sources={name: sources[name] for name in datasets},
        methods=tuple(dict.fromkeys(canonical(method) for method in names_in(options.methods))),
        slices=tuple(ALL if each == "all" else int(each) for each in names_in(options.slices)),
        seeds=tuple(map(int, names_in(options.seeds))),
        settings=kind(
            slices=0,  # set for each cell
            minutes=options.minutes,
            device=devices.choose(options.device).type,
            judge=options.judge,
            pretrain_share=options.pretrain_share,
            pretrain_minutes=options.pretrain_minutes,
            pretrain_recipe=options.pretrain_recipe,
            finetune_recipe=options.finetune_recipe,
            **overrides_of(options.overrides),
            **more,
        ),
        out=options.out,
        work=options.work,
        nnunet_env=options.nnunet_env or options.work / "nnunet-env",
        mirroring=not options.no_mirroring,
        keep=options.keep,
    )


def canonical(method: str) -> str:
    """The canonical name of a method, without defaults ("random:self_training" becomes "random").

    Raises:
        UserError: "no-method".
    """
    if method in PEERS:
        return method
    combination = Combination.of(method)
    if combination.pretraining not in (None, *METHODS):
        names = ", ".join([RANDOM, SHAPES, *METHODS, *PEERS])
        raise UserError(f"Unknown method {combination.weights!r}; choose from {names}.", code="no-method")
    return (
        combination.weights
        if combination.semi_supervised in (None, FinetuneJob.semi_supervised)
        else f"{combination.weights}:{combination.semi_supervised}"
    )


def overrides_of(pairs: list[str] | None) -> dict[str, dict[str, Any]]:
    """Parse PHASE.NAME=VALUE into {"pretrain": settings, "finetune": settings}.

    Raises:
        UserError: "bad-setting".
    """
    phases: dict[str, dict[str, Any]] = {"pretrain": {}, "finetune": {}}
    for name, value in settings_from(pairs).items():
        phase, _, setting = name.partition(".")
        if phase not in phases or not setting:
            raise UserError(
                f"--set {name} has no phase; write pretrain.NAME or finetune.NAME.", code="bad-setting"
            )
        phases[phase][setting] = value
    return phases


def names_in(text: str) -> tuple[str, ...]:
    """Split a comma-separated list and drop duplicates."""
    return tuple(dict.fromkeys(each.strip() for each in text.split(",") if each.strip()))


def main() -> None:
    """Run or draw."""
    # As an exception, so that the process of a peer ends with this one.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if sys.argv[1:2] == ["early"]:
        from early import main as early

        return early(sys.argv[2:])
    options = arguments().parse_args()
    try:
        if options.command == "draw":
            for path in draw(options.out or [LINES], options.page, DATASETS):
                print(path)
        else:
            run(grid_of(options))
    except UserError as error:
        raise SystemExit(f"Error: {error}") from None


if __name__ == "__main__":
    main()
