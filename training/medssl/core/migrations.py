"""Names that earlier versions wrote into jobs, plans, cards and checkpoints, and what they are called now.

Applied where such a file is read, so that nothing else knows the former names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_JOB = {"semi": "semi_supervised"}
_PLAN = {"sides": "multiplanar", "between_mm": "smoothing_sigma_mm"}
_CARD = {"health": "collapse_report", "held_slice": "validation_slice"}
_REPORT = {"spread": "feature_std", "output_spread": "output_std"}
_SETTINGS = {
    # fine-tuning
    "turn": "rotation",
    "bend": "displacement",
    "average": "ema_decay",
    "sides": "multiplanar",
    "other_sides": "multiplanar_prob",
    "layout": "location_prior",
    "neighbours": "posterior_smoothing",
    "fill_weight": "interpolated_weight",
    "hold_slice_back": "validation_slice",
    "least_steps": "min_steps_between",
    "trusted_loss": "start_below_loss",
    "sure": "confidence_threshold",
    "pasted": "copy_paste_prob",
    "guess_weight": "pseudo_label_weight",
    # pre-training
    "repaint": "reconstruction",
    "repaint_on": "reconstruct_on",
    "agree": "consistency",
    "shares": "assignment",
    "centring": "centering_momentum",
    "frozen": "freeze_last_layer",
    "far_mm": "min_negative_distance_mm",
    "near": "positive_threshold",
    "evenness": "uniformity_weight",
    "turn_degrees": "rotation_degrees",
}
_VALUES: dict[str, dict[str, Any]] = {
    "multiplanar": {"own": False, "all": True},
    "assignment": {"centred": "centering", "balanced": "sinkhorn"},
}

_TENSORS = {
    "layout.": "location_prior.",
    "modules.rounds.guesser.": "modules.rounds.pseudo_labeller.",
}
"""Beginnings of the names of a checkpoint's tensors."""


def job(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A job's fields under today's names, its settings too."""
    new = _renamed(fields, _JOB)
    if isinstance(new.get("settings"), dict):
        new["settings"] = settings(new["settings"])
    return new


def settings(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a training under today's names."""
    return _renamed(fields, _SETTINGS)


def plan(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A plan's fields under today's names."""
    return _renamed(fields, _PLAN)


def card(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A model card under today's names: its plan, job, settings and report of collapse too."""
    new = _renamed(fields, _CARD)
    parts = {"plan": plan, "job": job, "settings": settings, "collapse_report": _report}
    for name, part in parts.items():
        if isinstance(new.get(name), dict):
            new[name] = part(new[name])
    return new


def tensor(name: str) -> str:
    """A tensor's name in a checkpoint, as it is called today."""
    for former, new in _TENSORS.items():
        if name.startswith(former):
            return new + name.removeprefix(former)
    return name


def _report(fields: Mapping[str, Any]) -> dict[str, Any]:
    return _renamed(fields, _REPORT)


def _renamed(fields: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Fields under their new names; a value that is written anew is, too. What is unknown stays."""
    new = {}
    for name, value in fields.items():
        name = names.get(name, name)
        values = _VALUES.get(name, {})
        new[name] = values.get(value, value) if isinstance(value, str) else value
    return new
