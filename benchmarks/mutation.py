"""Mutation testing of methods, segmentation and inference: the share of deliberate errors that tests detect.

    pip install mutmut
    python benchmarks/mutation.py FOLDER --seed 0 --each 5

mutmut makes one error at a time (a "mutant") and runs the tests that reach the changed function, as set in
pyproject.toml. All mutants would take days, so a few of each module are drawn: changed operators, numbers,
conditions, keywords, dropped options. Mutants that make Python itself fail (None or nothing in place of a
value, changed letters of a string) would only raise the share and are left out.

FOLDER, outside of the checkout, keeps mutants and results: when it is run again, the same command tries only
those that no test has detected so far, with the current tests. It may be stopped at any time; --report prints
the results so far. docs/benchmarks/mutation.md has figures.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from medssl.benchmarking.report import markdown_table
from medssl.cli.options import names_in

ROOT = Path(__file__).resolve().parents[1]
LINKS = {
    "src": "training",
    "tests": "tests",
    "benchmarks": "benchmarks",
    "resources": "resources",
    "pyproject.toml": "pyproject.toml",
}
"""Links in FOLDER for mutmut, which keeps the names of modules under src/ only."""
FIRST = "medssl.nn.methods.mae_pgl.*"
"""Mutants of a small module: run first, so that mutmut writes all mutants and records their tests."""
CAUGHT = {"killed", "timeout", "segfault", "suspicious"}
"""mutmut's states of a mutant that made a test fail, hang or crash."""


def mutmut(folder: Path, *arguments: str) -> str:
    """Run mutmut in the folder with one thread and a fixed order of tests; returns its output."""
    variables = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [str(Path(sys.executable).parent / "mutmut"), *arguments]
    if not Path(command[0]).exists():
        sys.exit("mutmut is not installed in this environment: pip install mutmut")
    child = subprocess.run(
        command, cwd=folder, env=os.environ | variables, stdout=subprocess.PIPE, text=True, check=True
    )
    return child.stdout


def results(folder: Path) -> dict[str, str]:
    """State of each mutant by name."""
    return dict(re.findall(r"^ +(\S+): (.+)$", mutmut(folder, "results", "--all", "true"), re.M))


def module_of(mutant: str) -> str:
    """Module of a mutant: nn.methods.mae for medssl.nn.methods.mae.x_draw_mask__mutmut_3."""
    return mutant.rpartition(".")[0].removeprefix("medssl.")


def functions(folder: Path, module: str) -> dict[str, ast.AST]:
    """All functions that mutmut has written for a module, originals and mutants, by name."""
    path = folder / "mutants" / "src" / "medssl" / module.replace(".", "/")
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return {
        each.name: each
        for each in ast.walk(ast.parse(source.read_text()))
        if isinstance(each, ast.FunctionDef)
    }


def signature(function: ast.AST) -> tuple[int, int, list[str]]:
    """Number of Nones, number of positional arguments, and strings of a function.

    Mutants are drawn from those that leave these unchanged.
    """
    nodes = list(ast.walk(function))
    constants = [each.value for each in nodes if isinstance(each, ast.Constant)]
    return (
        constants.count(None),
        sum(len(each.args) for each in nodes if isinstance(each, ast.Call)),
        [each for each in constants if isinstance(each, str)],
    )


def draw(folder: Path, names: list[str], each: int, seed: int) -> list[str]:
    """Draw up to `each` mutants of each module."""
    by_module = defaultdict(list)
    for name in sorted(names):
        by_module[module_of(name)].append(name)
    drawn = []
    for module, mutants in by_module.items():
        signatures = {name: signature(function) for name, function in functions(folder, module).items()}
        eligible = [
            name
            for name, function in ((name, name.rpartition(".")[2]) for name in mutants)
            if signatures[function] == signatures[function.partition("__mutmut_")[0] + "__mutmut_orig"]
        ]
        drawn += random.Random(seed).sample(eligible, min(each, len(eligible)))
    return drawn


def table(states: dict[str, str]) -> str:
    """Markdown table with a row for each module: number of mutants, number and share of detected ones."""
    rows: dict[str, list[bool]] = defaultdict(list)
    for name, status in states.items():
        for row in (module_of(name), "all"):
            rows[row].append(status in CAUGHT)
    ordered = sorted(rows.items(), key=lambda item: (item[0] == "all", item[0]))
    cells = [[row, str(len(each)), str(sum(each)), f"{sum(each) / len(each):.0%}"] for row, each in ordered]
    return markdown_table(["module", "mutants", "caught", "share"], cells)


def main() -> None:
    """Run the drawn mutants and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=5, help="mutants of each module")
    parser.add_argument("--modules", default="", help="only these, separated by commas")
    parser.add_argument("--report", action="store_true", help="print the results so far and run nothing")
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, target in LINKS.items():
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / target)
    if not (folder / "mutants" / "mutmut-stats.json").exists():
        mutmut(folder, "run", "--max-children", "1", FIRST)
    states = results(folder)
    only = names_in(options.modules)
    chosen = [name for name in states if not only or module_of(name) in only]
    names = draw(folder, chosen, options.each, options.seed)
    remaining = [name for name in names if states[name] not in CAUGHT]
    if remaining and not options.report:
        mutmut(folder, "run", "--max-children", "1", *remaining)
        states = results(folder)
    tried = {name: states[name] for name in names if states[name] != "not checked"}
    print(table(tried))
    print("\nNot caught:", *(name for name in tried if tried[name] not in CAUGHT), sep="\n")


if __name__ == "__main__":
    main()
