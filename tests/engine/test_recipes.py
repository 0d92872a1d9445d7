"""Recipes: every file can be used, and the lists say what each is for."""

from __future__ import annotations

from dataclasses import fields

import pytest
from medssl.core import recipes
from medssl.core.errors import UserError
from medssl.core.methods import METHODS
from medssl.nn.methods import find
from medssl.tasks.training.loop_settings import settings_for
from small import plan

PRETRAININGS = [(method, which) for method, which, _ in recipes.pretrainings()]


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_says_in_a_short_sentence_what_it_is_for_and_how_long_it_takes(name: str) -> None:
    recipe = recipes.read(name)
    assert recipe.purpose.endswith(".")
    assert len(recipe.purpose) <= 95
    assert recipe.time


@pytest.mark.parametrize(("method", "which"), PRETRAININGS)
def test_a_recipe_s_settings_are_those_of_its_method(method: str, which: str) -> None:
    loop, own = settings_for(f"{method}-{which}", {}, find(method).Settings, plan())
    recipe = recipes.read(f"{method}-{which}")
    assert {name: getattr(loop, name) for name in recipe.loop} == recipe.loop
    assert set(recipe.method) <= {field.name for field in fields(own)}


def test_methods_are_offered_in_their_order_quick_first_and_no_other_recipe() -> None:
    assert PRETRAININGS[0] == ("pgl", "quick")
    assert [method for method in METHODS if (method, "quick") in PRETRAININGS] == list(METHODS)
    order = [list(METHODS).index(method) for method, _ in PRETRAININGS]
    assert order == sorted(order)
    for at, (method, which) in enumerate(PRETRAININGS):
        if which == "paper":
            assert PRETRAININGS[at - 1] == (method, "quick")
    assert {f"{method}-{which}" for method, which in PRETRAININGS} <= set(recipes.names())
    assert "finetune-quick" in recipes.names()
    assert not any(method == "finetune" for method, _ in PRETRAININGS)


def test_a_recipe_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(UserError) as caught:
        recipes.read("pgl-slow")
    assert caught.value.code == "no-recipe"
    assert str(caught.value) == "pgl has no recipe 'slow'; choose paper or quick."
    with pytest.raises(UserError) as caught:
        recipes.read("dino-quick")
    assert all(name in str(caught.value) for name in recipes.names())
