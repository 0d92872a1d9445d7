"""The settings of methods, fine-tuning and training steps, read from the source of their dataclasses.

The dataclasses stand beside the code that uses them, which imports torch; a viewer must not. So their fields,
types, defaults and the texts below the fields are taken from the syntax tree (tests/engine/test_settings.py
compares them with the imported classes). These texts are the one source of help for settings.
"""

from __future__ import annotations

import ast
import inspect
import re
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, make_dataclass, replace
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from medssl.core import recipes, typed
from medssl.core.errors import UserError
from medssl.core.jobs import FinetuneJob, Precision, PretrainJob, TrainingJob, settings_of
from medssl.core.methods import ALL

Share = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]
"""Types of settings with the values that they may have."""

FINETUNING = {
    "self_training": ("finetune", "medssl.tasks.segment.pseudo_labels:Settings"),
    "pseudo_contrast": ("pseudo_contrast", "medssl.tasks.segment.pseudo_contrast:Settings"),
    "both": ("pseudo_contrast", "medssl.tasks.segment.pseudo_contrast:Settings"),
    "none": ("finetune", "medssl.tasks.segment.annotated_crops:Settings"),
}
"""{choice of `FinetuneJob.semi_supervised`: (name of its recipes before "-quick" or "-paper", settings)}."""
COMPUTER = "Computer"
"""Group of the job's own fields."""
LOOP = "medssl.tasks.loop:LoopSettings"
NOT_OFFERED = {"precision", "checkpoint_every_s", "snapshots_s", "validation_slice"}
"""Left out of forms: set by the plan, for benchmarks, or a box of its own in the viewer."""


@dataclass(frozen=True)
class PlanSettings:
    """Overrides of what the planner chooses; None leaves the choice to it."""

    dims: Literal[2, 3] | None = None
    """2 for 2.5D (neighbouring slices as channels, 2D convolutions) or 3."""
    slice_axis: Literal[0, 1, 2] | None = None
    """Axis across slices: 0 axial, 1 coronal, 2 sagittal."""
    context: Count | None = None
    """Neighbouring slices that a 2.5D network sees; an odd number."""
    patch: tuple[int, ...] | None = None
    """Size of a training patch in voxels: slices, rows, columns."""
    batch: Count | None = None
    """Patches in a training step."""
    precision: Precision | None = None
    """Precision of the computations."""
    threads: Count | None = None
    """Threads that a step takes on a CPU."""


@dataclass(frozen=True)
class Setting:
    """One field of a settings dataclass."""

    name: str
    kind: Any
    """Its type; Annotated with msgspec.Meta where only some values are allowed."""
    default: Any
    help: str

    @property
    def label(self) -> str:
        """The name in words, its unit in brackets: "d_max_mm" is "D max (mm)"."""
        words = self.name.split("_")
        unit = f" ({words.pop()})" if words[-1] in ("mm", "px", "s", "degrees", "ml") else ""
        return " ".join(words).capitalize() + unit


def of_pretraining(method: str, recipe: str) -> dict[str, list[Setting]]:
    """What can be set for a method, in groups, with the recipe's values as defaults.

    Raises UserError ("no-method", "no-recipe").
    """
    _check_method(method)
    return _groups(method.upper(), f"{method}-{recipe}", _own_fields(method))


def of_finetuning(semi_supervised: str, recipe: str) -> dict[str, list[Setting]]:
    """What can be set for a fine-tuning, in groups, with the recipe's values as defaults.

    Raises UserError ("no-recipe").
    """
    start, path = FINETUNING[semi_supervised]
    return _groups("Fine-tuning", f"{start}-{recipe}", of_class(path))


def of_prediction() -> dict[str, list[Setting]]:
    """What can be set when scans are segmented and exported."""
    own = of_class("medssl.core.jobs:PredictJob")
    return {"Segment and export": [each for each in own if each.name in ("probabilities", "device")]}


def of_class(path: str) -> list[Setting]:
    """The fields of a dataclass "package.module:Class", those of its bases first; nothing is imported."""
    module, _, name = path.partition(":")
    return _fields(module, name)


def check(settings: Iterable[Setting], values: dict[str, Any]) -> None:
    """Check values as the engine checks those of a job.

    Raises UserError ("bad-job") that names the first value that does not fit.
    """
    kind = make_dataclass("Chosen", [(each.name, each.kind, None) for each in settings], eq=False)
    settings_of(kind, values)


def check_job(job: TrainingJob) -> None:
    """Check method, recipe and settings of a training before anything is made for it; loads no torch.

    Raises:
        UserError: "no-method", "no-recipe", "bad-job".
    """
    if isinstance(job, PretrainJob):
        _check_method(job.method)
        recipes.read(f"{job.method}-{job.recipe}")
        try:
            own = _own_fields(job.method)
        except UserError:
            return  # another package's, whose source does not show them: the training checks them
    else:
        assert isinstance(job, FinetuneJob)
        name, path = finetuning(job.semi_supervised)
        recipes.read(f"{name}-{job.recipe}")
        own = of_class(path)
    known = {each.name: each for each in (*of_class(LOOP), *of_class(f"{__name__}:PlanSettings"), *own)}
    check(known.values(), job.settings)


def finetuning(choice: str) -> tuple[str, str]:
    """Name of the recipes and path of the settings class of a choice of `FinetuneJob.semi_supervised`.

    Raises:
        UserError: "bad-job": unknown choice.
    """
    if choice not in FINETUNING:
        raise UserError(
            f"semi_supervised is {choice!r}, which is unknown; choose one of {', '.join(FINETUNING)}.",
            code="bad-job",
        )
    return FINETUNING[choice]


def _own_fields(method: str) -> list[Setting]:
    module, _, name = ALL[method].partition(":")
    return _fields(*_settings_class(module, name))


def _check_method(method: str) -> None:
    if method not in ALL:
        raise UserError(f"There is no method {method!r}; choose one of {', '.join(ALL)}.", code="no-method")


def _groups(title: str, recipe_name: str, own: list[Setting]) -> dict[str, list[Setting]]:
    recipe = recipes.read(recipe_name)
    groups = {
        title: [_with_default(each, recipe.method) for each in own],
        "Optimization": [_with_default(each, recipe.loop) for each in of_class(LOOP)],
        "Network and patches": of_class(f"{__name__}:PlanSettings"),
        COMPUTER: of_class("medssl.core.jobs:Job"),
    }
    taken: set[str] = set()
    offered = {}
    for name, group in groups.items():
        offered[name] = [each for each in group if _is_offered(each, name, taken)]
        taken |= {each.name for each in offered[name]}
    return offered


def _is_offered(setting: Setting, group: str, taken: set[str]) -> bool:
    if setting.name in taken or (setting.name in NOT_OFFERED and group != "Network and patches"):
        return False
    return not isinstance(setting.default, dict) and setting.default is not inspect.Parameter.empty


def _with_default(setting: Setting, values: dict[str, Any]) -> Setting:
    if setting.name not in values:
        return setting
    default = typed.convert(setting.kind, values[setting.name], f"The recipe's {setting.name}")
    return replace(setting, default=default)


# --- the syntax tree --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """A module's classes, what its names stand for where they are imported, and its constants."""

    classes: dict[str, ast.ClassDef]
    imported: dict[str, str]
    """{name: "package.module:name" or "package.module"}."""
    names: dict[str, Any]
    """For annotations and defaults: types, constants, and what comes from torch-free modules."""


@lru_cache(maxsize=32)
def _source(module: str) -> _Source:
    tree = ast.parse(_file(module).read_text(encoding="utf-8"))
    names: dict[str, Any] = {**vars(typing), **vars(__import__("builtins"))}
    imported: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                here = alias.asname or alias.name
                imported[here] = f"{node.module}:{alias.name}"
                if node.module.startswith("medssl.core") or node.module == "msgspec":
                    names[here] = getattr(import_module(node.module), alias.name, None)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                names[node.targets[0].id] = _evaluated(node.value, names)
            except Exception:
                continue  # no constant
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    return _Source(classes, imported, names)


def _file(module: str) -> Path:
    """Where a module's source is; importing a package may load torch, so its folders are walked instead."""
    top, *rest = module.split(".")
    spec = find_spec(top)
    if spec is None or spec.origin is None:
        raise UserError(f"The package {top} is not installed; install it again.", code="no-method")
    path = Path(spec.origin)
    if rest:
        path = path.parent.joinpath(*rest)
        path = path / "__init__.py" if path.is_dir() else path.with_name(path.name + ".py")
    return path


def _settings_class(module: str, method: str) -> tuple[str, str]:
    """Module and name of the class that a method's class calls `Settings`."""
    source = _source(module)
    if method not in source.classes and ":" in source.imported.get(method, ""):
        return _settings_class(*source.imported[method].split(":"))
    body = source.classes[method].body if method in source.classes else []
    for node in body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and target.id == "Settings" and isinstance(value, ast.Name):
            return module, value.id
    raise UserError(f"The method {method} has no Settings in {module}; update its package.", code="no-method")


def _fields(module: str, name: str) -> list[Setting]:
    source = _source(module)
    if name not in source.classes:
        module, _, name = source.imported[name].partition(":")
        return _fields(module, name)
    found: dict[str, Setting] = {}
    for base in source.classes[name].bases:
        found.update({each.name: each for each in _fields(*_named(base, module, source))})
    found.update({each.name: each for each in _own(source, source.classes[name])})
    return list(found.values())


def _named(base: ast.expr, module: str, source: _Source) -> tuple[str, str]:
    """Module and name of a base class."""
    text = ast.unparse(base)
    if "." in text:
        where, _, name = text.rpartition(".")
        return source.imported[where].replace(":", "."), name
    return module, text


def _own(source: _Source, node: ast.ClassDef) -> Iterator[Setting]:
    for line, after in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name):
            continue
        text = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            text = re.sub(r" \([\w/]+\.py\)", "", " ".join(str(after.value.value).split()))
        default = inspect.Parameter.empty if line.value is None else _default(line.value, source.names)
        yield Setting(line.target.id, _evaluated(line.annotation, source.names), default, text)


def _default(value: ast.expr, names: dict[str, Any]) -> Any:
    if isinstance(value, ast.Call) and ast.unparse(value.func).endswith("field"):
        given = {word.arg: _evaluated(word.value, names) for word in value.keywords}
        return given["default_factory"]() if "default_factory" in given else given.get("default")
    return _evaluated(value, names)


def _evaluated(node: ast.expr, names: dict[str, Any]) -> Any:
    """What an annotation or a default stands for, as an import of the module would have it."""
    return eval(compile(ast.Expression(node), "<settings>", "eval"), names)


PLAN_NAMES = tuple(each.name for each in fields(PlanSettings))
"""Names in a job's settings that override what the planner chooses."""
