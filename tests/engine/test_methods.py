"""The interface of methods: what each says of itself, and that nobody else knows it."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

import medssl
import pytest
from medssl.core.methods import ALL, BUILT_IN, METHODS, needs_scans
from medssl.nn.methods import find, method_of
from medssl.nn.methods.alice import Alice
from medssl.nn.methods.lrc import LRCSettings
from medssl.nn.methods.mae import MAE

PACKAGE = Path(medssl.__file__).parent
WITH_NAMES = {"core/methods.py", "core/jobs.py", "core/recipes.py", "core/shipped.py"}
"""The registry, a job's default method, the start of quick recipes, the run of the program's weights."""


@pytest.mark.parametrize("name", ALL)
def test_the_registry_and_the_class_agree_on_who_needs_scans(name: str) -> None:
    assert needs_scans(name) == find(name).NEEDS_SCANS
    assert needs_scans(name) == (name in METHODS)


@pytest.mark.parametrize("name", ALL)
def test_those_with_the_same_heads_are_methods(name: str) -> None:
    for other in find(name).SAME_TASK:
        assert find(other) is not find(name)


def test_a_card_says_by_which_method_it_was_trained() -> None:
    assert method_of({"kind": "pretrain", "method": "mae"}) is MAE
    assert method_of({"kind": "finetune"}) is None
    assert method_of({"kind": "pretrain", "method": "of a package that is gone"}) is None


def test_only_methods_with_an_embedding_of_their_own_describe_places_by_it() -> None:
    assert {name for name in ALL if find(name).embedding.__func__ is not MAE.embedding.__func__} == {"alice"}  # type: ignore[attr-defined]
    assert Alice.embedding({}) is None


def test_what_preparing_costs_is_tried_on_a_few_slices_where_it_grows_with_them() -> None:
    assert MAE.trial(MAE.Settings(), 1000) == ({}, 1.0)
    short, times = find("lrc").trial(LRCSettings(slices=100), 1000)
    assert times * short["slices"] == 100
    short, times = find("lrc").trial(LRCSettings(slices=100), 40)
    assert times * short["slices"] == 40


@pytest.mark.parametrize("name", sorted(set(BUILT_IN) - {"shapes", "supervoxels"}))
def test_a_published_method_lists_where_it_departs(name: str) -> None:
    """The two that are our own have nothing to depart from."""
    said = importlib.import_module(find(name).__module__).__doc__ or ""
    assert any(source in said for source in ("arXiv", "doi.org", "doi:", "He et al.", "LatentCampus"))
    assert "\n- " in said.partition("Where we depart")[2]


def compared(node: ast.AST) -> list[Any]:
    """Constants with which a node compares something."""
    if not isinstance(node, ast.Compare):
        return []
    parts = [part for each in (node.left, *node.comparators) for part in getattr(each, "elts", [each])]
    return [part.value for part in parts if isinstance(part, ast.Constant)]


def attribute_names(node: ast.AST) -> list[Any]:
    """Names of fields for which a node looks by getattr or hasattr."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
        return [each.value for each in node.args if isinstance(each, ast.Constant)]
    return []


def test_no_other_module_asks_for_a_method_or_for_a_field_that_only_one_has() -> None:
    fields = [name for method in ALL for name in find(method).Settings.__dataclass_fields__]
    rare = {name for name in fields if fields.count(name) == 1}
    asked = []
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        if place.startswith("nn/methods/") or place in WITH_NAMES:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            words = [word for word in compared(node) if word in ALL]
            words += [word for word in attribute_names(node) if word in rare]
            asked += [f"{place}: {word}" for word in words]
    assert not asked
