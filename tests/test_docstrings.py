"""What the reference promises: whoever takes arrays says of each what it is and its shape."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ARRAYS = re.compile(r"\b(ndarray|Tensor)\b")
SHAPE = re.compile(r"\([^()]*\)|scalar|any shape|same shape")
"""(N, C, ...), or a word instead."""


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Public functions of a module, and public methods of its public classes."""
    for node in tree.body:
        parts = node.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_") else [node]
        for part in parts:
            if isinstance(part, ast.FunctionDef) and not part.name.startswith("_"):
                yield part


def section(text: str, name: str) -> str:
    """A section of a docstring in Google's style; empty where it has none."""
    match = re.search(rf"^{name}:\n((?:[ \t]+.*\n?|\n)+)", text, re.MULTILINE)
    return match[1] if match else ""


def missing(function: ast.FunctionDef) -> str:
    """What a function does not say of the arrays that it takes; empty where nothing is missing."""
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    arrays = [
        each.arg for each in arguments if each.annotation and ARRAYS.search(ast.unparse(each.annotation))
    ]
    docstring = ast.get_docstring(function) or ""
    if len(arrays) == 1 and SHAPE.search(docstring.partition("\n\n")[0]):
        return ""  # of a single array the first sentence may say it
    described = section(docstring, "Args")
    entry = r"^[ \t]*{}:(?:(?!^[ \t]*\w+:).)*?(?:" + SHAPE.pattern + ")"
    lacking = [name for name in arrays if not re.search(entry.format(name), described, re.M | re.S)]
    return f"{function.name} ({', '.join(lacking)})" if lacking else ""


PACKAGES = (
    "training/medssl/core",
    "training/medssl/nn",
    "training/medssl/tasks",
    "training/medssl/benchmarking",
    "training/medssl/cli",
    "napari_medssl",
)


@pytest.mark.parametrize("package", PACKAGES)
def test_functions_that_take_arrays_say_their_shapes(package: str) -> None:
    lacking = [
        f"{path.relative_to(ROOT)}: {said}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for function in functions(ast.parse(path.read_text(encoding="utf-8")))
        if (said := missing(function))
    ]
    assert not lacking, "\n".join(lacking)
