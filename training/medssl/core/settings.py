"""Settings of methods, fine-tuning and training steps: what can be set, with which defaults, and checks.

The dataclasses stand beside the code that uses them; settings_source.py reads their fields, types, defaults
and the texts below the fields, which are the one source of help for settings.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass, fields, make_dataclass, replace
from typing import Annotated, Any, Literal

from msgspec import Meta

from medssl.core import recipes, typed
from medssl.core.errors import UserError
from medssl.core.jobs import ORDERED, FinetuneJob, Precision, PretrainJob, TrainingJob, settings_of
from medssl.core.methods import ALL
from medssl.core.settings_source import Setting, of_class, settings_class

Share = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0, le=1e30)]
NotNegative = Annotated[float, Meta(ge=0, le=1e30)]
Count = Annotated[int, Meta(ge=1, le=10**9)]
Threads = Annotated[int, Meta(ge=1, le=1024)]
Range = Annotated[tuple[Positive, Positive], Meta(extra={ORDERED: True})]
"""Types of settings with the values that they may have. Tensors hold no larger numbers, and ten thousands of
threads end a process at once."""

FINETUNING = {
    "self_training": ("finetune", "medssl.tasks.segment.pseudo_labels:Settings"),
    "pseudo_contrast": ("pseudo_contrast", "medssl.tasks.segment.pseudo_contrast:Settings"),
    "both": ("pseudo_contrast", "medssl.tasks.segment.pseudo_contrast:Settings"),
    "none": ("finetune", "medssl.tasks.segment.annotated_crops:Settings"),
}
"""{choice of `FinetuneJob.semi_supervised`: (name of its recipes before "-quick" or "-paper", settings)}."""
COMPUTER = "Computer"
"""Group of the job's own fields."""
LOOP = "medssl.tasks.training.loop_settings:LoopSettings"
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
    channel_names: tuple[str, ...] | None = None
    """Channels of the scans that the network takes, e.g. ["t1", "t2"]; by default all that there are."""
    batch: Count | None = None
    """Patches in a training step."""
    precision: Precision | None = None
    """Precision of the computations."""
    threads: Threads | None = None
    """Threads that a step takes on a CPU."""


def of_pretraining(method: str, recipe: str) -> dict[str, list[Setting]]:
    """What can be set for a method, in groups, with the recipe's values as defaults.

    Raises UserError ("no-method", "no-recipe").
    """
    _check_method(method)
    return _groups(method.upper(), f"{method}-{recipe}", _own_fields(method))


def of_finetuning(semi_supervised: str, recipe: str) -> dict[str, list[Setting]]:
    """What can be set for a fine-tuning, in groups, with the recipe's values as defaults.

    Raises UserError ("no-recipe", "bad-job").
    """
    start, path = finetuning(semi_supervised)
    return _groups("Fine-tuning", f"{start}-{recipe}", of_class(path))


def of_prediction() -> dict[str, list[Setting]]:
    """What can be set when scans are segmented and exported."""
    own = of_class("medssl.core.jobs:PredictJob")
    return {"Segment and export": [each for each in own if each.name in ("probabilities", "device")]}


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
    return of_class(":".join(settings_class(module, name)))


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


PLAN_NAMES = tuple(each.name for each in fields(PlanSettings))
"""Names in a job's settings that override what the planner chooses."""
