"""Former names in jobs, plans, cards and checkpoints, mapped to the current ones.

Applied where such a file is read, so that no other module handles former names.
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
"""Prefixes of tensor names in checkpoints."""


def job(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a job, including its settings, under their current names."""
    new = _renamed(fields, _JOB)
    if isinstance(new.get("settings"), dict):
        new["settings"] = settings(new["settings"])
    return new


def settings(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a training under their current names."""
    return _renamed(fields, _SETTINGS)


def plan(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a plan under their current names."""
    return _renamed(fields, _PLAN)


def card(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a model card, including its plan, job, settings and report, under their current names."""
    new = _renamed(fields, _CARD)
    nested = {"plan": plan, "job": job, "settings": settings, "collapse_report": _report}
    for name, migrate in nested.items():
        if isinstance(new.get(name), dict):
            new[name] = migrate(new[name])
    return new


def view_state(project: Mapping[str, Any]) -> dict[str, Any]:
    """State of the viewer in project.json, where it was before it had a file of its own."""
    state = project.get("view_state")
    return dict(state) if isinstance(state, dict) else {}


def tensor(name: str) -> str:
    """Current name of a tensor in a checkpoint."""
    for former, new in _TENSORS.items():
        if name.startswith(former):
            return new + name.removeprefix(former)
    return name


def _report(fields: Mapping[str, Any]) -> dict[str, Any]:
    return _renamed(fields, _REPORT)


def _renamed(fields: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Fields under their current names, with former values replaced; unknown fields are kept."""
    new = {}
    for name, value in fields.items():
        name = names.get(name, name)
        values = _VALUES.get(name, {})
        new[name] = values.get(value, value) if isinstance(value, str) else value
    return new
