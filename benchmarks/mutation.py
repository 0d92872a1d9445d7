"""How many deliberate errors the tests find: mutation testing of methods, segmentation and inference.

    pip install mutmut
    python benchmarks/mutation.py FOLDER --seed 0 --each 5

mutmut makes the errors, one at a time ("mutants"), and runs the tests that reach the changed function; what
it may change and which test files it runs is in pyproject.toml. All mutants would take days, so a few of each
module are drawn: changed operators, numbers, conditions, keywords, dropped options. Those at which Python
itself stumbles (None or nothing in place of an argument or a value, letters of a string) would only raise the
share, and are not drawn.

FOLDER, outside of the checkout, keeps mutants and results: run again, the same command asks only for those
that no test has caught so far, with the tests of now. It may be stopped at any time; --report then says what
is known. docs/benchmarks/mutation.md has figures.
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

ROOT = Path(__file__).resolve().parents[1]
LINKS = {
    "src": "training",
    "tests": "tests",
    "benchmarks": "benchmarks",
    "resources": "resources",
    "pyproject.toml": "pyproject.toml",
}
"""What mutmut has to see in FOLDER, and what that is here: only modules under src/ keep their names there."""
FIRST = "medssl.nn.methods.mae_pgl.*"
"""Mutants of a small module: asked for first, they make mutmut write all and see which test reaches what."""
CAUGHT = {"killed", "timeout", "segfault", "suspicious"}
"""What mutmut says of a mutant that made a test fail, hang or crash."""


def mutmut(folder: Path, *arguments: str) -> str:
    """Run mutmut in the folder, with one thread and the tests in one order; returns what it printed."""
    variables = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [str(Path(sys.executable).parent / "mutmut"), *arguments]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | variables, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def results(folder: Path) -> dict[str, str]:
    """What became of every mutant, by its name."""
    return dict(re.findall(r"^ +(\S+): (.+)$", mutmut(folder, "results", "--all", "true"), re.M))


def module_of(mutant: str) -> str:
    """nn.methods.mae of medssl.nn.methods.mae.x_draw_mask__mutmut_3."""
    return mutant.rpartition(".")[0].removeprefix("medssl.")


def functions(folder: Path, module: str) -> dict[str, ast.AST]:
    """The functions that mutmut has written for a module, originals and mutants, by their names."""
    path = folder / "mutants" / "src" / "medssl" / module.replace(".", "/")
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return {
        each.name: each
        for each in ast.walk(ast.parse(source.read_text()))
        if isinstance(each, ast.FunctionDef)
    }


def signs(function: ast.AST) -> tuple[int, int, list[str]]:
    """A function's number of Nones and of positional arguments, and its strings: drawn mutants keep these."""
    nodes = list(ast.walk(function))
    constants = [each.value for each in nodes if isinstance(each, ast.Constant)]
    return (
        constants.count(None),
        sum(len(each.args) for each in nodes if isinstance(each, ast.Call)),
        [each for each in constants if isinstance(each, str)],
    )


def draw(folder: Path, names: list[str], each: int, seed: int) -> list[str]:
    """So many mutants of each module, by the seed."""
    by_module = defaultdict(list)
    for name in sorted(names):
        by_module[module_of(name)].append(name)
    drawn = []
    for module, every in by_module.items():
        written = functions(folder, module)
        own = {name: signs(function) for name, function in written.items()}
        telling = [
            name
            for name, function in ((name, name.rpartition(".")[2]) for name in every)
            if own[function] == own[function.partition("__mutmut_")[0] + "__mutmut_orig"]
        ]
        drawn += random.Random(seed).sample(telling, min(each, len(telling)))
    return drawn


def table(known: dict[str, str]) -> str:
    """A row a module in Markdown: how many mutants were tried, and how many of them the tests caught."""
    rows: dict[str, list[bool]] = defaultdict(list)
    for name, status in known.items():
        for row in (module_of(name), "all"):
            rows[row].append(status in CAUGHT)
    lines = ["| module | mutants | caught | share |", "| --- | --- | --- | --- |"]
    for row, each in sorted(rows.items(), key=lambda item: (item[0] == "all", item[0])):
        lines.append(f"| {row} | {len(each)} | {sum(each)} | {sum(each) / len(each):.0%} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=5, help="mutants of each module")
    parser.add_argument("--report", action="store_true", help="say what is known so far, and run nothing")
    chosen = parser.parse_args()
    folder: Path = chosen.folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, here in LINKS.items():
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / here)
    if not (folder / "mutants" / "mutmut-stats.json").exists():
        mutmut(folder, "run", "--max-children", "1", FIRST)
    known = results(folder)
    names = draw(folder, list(known), chosen.each, chosen.seed)
    left = [name for name in names if known[name] not in CAUGHT]
    if left and not chosen.report:
        mutmut(folder, "run", "--max-children", "1", *left)
        known = results(folder)
    tried = {name: known[name] for name in names if known[name] != "not checked"}
    print(table(tried))
    print("\nNot caught:", *(name for name in tried if tried[name] not in CAUGHT), sep="\n")


if __name__ == "__main__":
    main()
