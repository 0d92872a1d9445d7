"""Settings as their source says them are those of the imported classes."""

from __future__ import annotations

import dataclasses
import sys
import typing
from importlib import import_module
from pathlib import Path

import pytest
from medssl.core import methods, recipes, settings
from medssl.core.errors import UserError
from medssl.core.jobs import PretrainJob
from medssl.core.methods import ALL
from medssl.core.settings import FINETUNING, LOOP, PlanSettings
from medssl.core.settings_source import Setting, of_class, settings_class
from medssl.nn.methods import find
from medssl.tasks.segment import semi_supervised
from medssl.tasks.training.loop_settings import settings_for
from small import plan

PRETRAININGS = [(method, which) for method, which, _ in recipes.pretrainings()]
PATHS = [LOOP, *dict.fromkeys(path for _, path in FINETUNING.values()), "medssl.core.settings:PlanSettings"]


def assert_same(said: list[Setting], kind: type) -> None:
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {each.name: each for each in dataclasses.fields(kind)}
    assert [each.name for each in said] == list(fields)
    for each in said:
        field = fields[each.name]
        made = field.default_factory() if callable(field.default_factory) else field.default
        assert (each.kind, each.default) == (hints[each.name], made), each.name


@pytest.mark.parametrize("path", PATHS)
def test_a_settings_class_is_read_as_it_is(path: str) -> None:
    module, _, name = path.partition(":")
    assert_same(of_class(path), getattr(import_module(module), name))


@pytest.mark.parametrize("method", ALL)
def test_the_settings_of_a_method_are_found_and_read(method: str) -> None:
    module, _, name = ALL[method].partition(":")
    kind = find(method).Settings
    assert_same(of_class(":".join(settings_class(module, name))), kind)


@pytest.mark.parametrize(("method", "which"), PRETRAININGS)
def test_defaults_are_those_of_the_recipe(method: str, which: str) -> None:
    loop, own = settings_for(f"{method}-{which}", {}, find(method).Settings, plan())
    groups = settings.of_pretraining(method, which)
    offered = {each.name: each for group in groups.values() for each in group}
    assert len(offered) == sum(map(len, groups.values()))
    for each in groups[method.upper()]:
        assert each.default == getattr(own, each.name)
    for each in groups["Optimization"]:
        assert each.default == getattr(loop, each.name)
    assert {each.name for each in dataclasses.fields(PlanSettings)} <= set(offered)
    settings.check(offered.values(), {})


@pytest.mark.parametrize("form", [*PRETRAININGS, *FINETUNING], ids=str)
def test_every_setting_says_what_it_does(form: tuple[str, str] | str) -> None:
    groups = (
        settings.of_finetuning(form, "quick") if isinstance(form, str) else settings.of_pretraining(*form)
    )
    assert [each.name for group in groups.values() for each in group if not each.help] == []


@pytest.mark.parametrize("choice", FINETUNING)
def test_the_defaults_of_a_fine_tuning_are_those_of_its_recipe(choice: str) -> None:
    recipe, kind = semi_supervised.find(choice)
    _, own = settings_for(f"{recipe}-quick", {}, kind, plan())
    for each in settings.of_finetuning(choice, "quick")["Fine-tuning"]:
        assert each.default == getattr(own, each.name)


@pytest.mark.parametrize(
    ("name", "value"),
    [("ratio", 1.5), ("ratio", "half"), ("block", 0), ("block", 1.5), ("batch", 0), ("precision", "fp8"),
     ("patch", "big"), ("learning_rate", 0), ("nonsense", 1)],
)  # fmt: skip
def test_what_does_not_fit_is_named_in_one_sentence_as_by_the_engine(name: str, value: object) -> None:
    groups = settings.of_pretraining("mae", "quick")
    with pytest.raises(UserError, match=name) as refusal:
        settings.check([each for group in groups.values() for each in group], {name: value})
    assert refusal.value.code == "bad-job" and "\n" not in str(refusal.value)
    if name in ("ratio", "block", "learning_rate"):
        with pytest.raises(UserError) as engine:
            settings_for("mae-quick", {name: value}, find("mae").Settings, plan())
        assert str(engine.value) == str(refusal.value)


def test_a_method_of_another_package_is_read_without_an_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs.py").write_text(
        "import torch_of_another_world\n"
        "from dataclasses import dataclass\n"
        "SIDE = 8\n"
        "@dataclass(frozen=True)\n"
        "class Numbers:\n"
        "    side: int = SIDE\n"
        '    """Side of it."""\n'
        "class Theirs:\n"
        "    Settings = Numbers\n"
    )
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "theirs-quick.toml").write_text('purpose = "Theirs."\n[method]\nside = 9\n')
    monkeypatch.syspath_prepend(tmp_path)
    for known in (ALL, methods._FROM_OTHER_PACKAGES):
        monkeypatch.setitem(known, "theirs", "theirs:Theirs")
    assert settings.of_pretraining("theirs", "quick")["THEIRS"] == [Setting("side", int, 9, "Side of it.")]
    assert "theirs" not in sys.modules


@pytest.mark.parametrize(
    ("name", "label"),
    [("learning_rate", "Learning rate"), ("d_max_mm", "D max (mm)"), ("turn_degrees", "Turn (degrees)")],
)
def test_a_label_is_the_name_in_words(name: str, label: str) -> None:
    assert Setting(name, float, 1.0, "").label == label


def test_a_value_that_is_none_of_the_choices_is_answered_with_them() -> None:
    """Also where the planner may choose, so that None is a value, too."""
    for name, value in (("slice_axis", 7), ("dims", 4)):
        with pytest.raises(UserError, match=r"write one of \d, \d"):
            settings.check_job(PretrainJob(project="", settings={name: value}))
