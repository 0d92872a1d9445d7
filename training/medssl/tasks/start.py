"""What a training, or a feature map, starts from: the program's own weights, a run's, or random ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from medssl.core import jobs
from medssl.core.errors import UserError
from medssl.core.events import Emit, Notice
from medssl.core.jobs import Plan
from medssl.core.methods import WITHOUT_SCANS
from medssl.core.project.project import Project, Run
from medssl.core.shipped import RANDOM
from medssl.nn import devices
from medssl.nn.methods import find
from medssl.nn.models import checkpoint
from medssl.nn.models.unet import Network, load_matching, load_network
from medssl.tasks import planner

Stored = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors and card of a checkpoint."""


def load_start(project: Project, weights: str | None) -> Stored | None:
    """The checkpoint that `weights` of a job names; None for random weights.

    Raises UserError ("no-run", "no-checkpoint", "shipped-weights", "newer-version").
    """
    if weights in (None, RANDOM):
        return None
    return checkpoint.load(project.run(weights).checkpoint, under="modules.")


def plan_from(
    project: Project,
    scans: Sequence[str],
    device: torch.device,
    settings: dict[str, Any],
    start: Stored | None,
) -> tuple[Plan, list[str]]:
    """The plan of a training that starts there, with one sentence a decision.

    Weights that were trained on scans bring their plan along; those from made-up volumes fit any scans and
    bring the network alone.
    """
    if start is None:
        return planner.choose(project, scans, device, settings)
    own = _plan_of(start)
    if start[1].get("method") in WITHOUT_SCANS:
        return planner.choose(project, scans, device, settings, network=own)
    # Precision and threads are no part of what the weights learned, but of this machine at this moment.
    reasons = ["slices and patches as the weights it starts from were trained"]
    plan = planner.adapt(replace(own, threads=devices.THREADS), device, settings)
    return planner.measured(project, plan, device, settings, reasons), reasons


def load_weights(
    network: Network, plan: Plan, start: Stored, emit: Emit, skip: tuple[str, ...] = ()
) -> set[str]:
    """Copy what the start has learned into the network; returns the names of the tensors that were filled.

    Nothing is copied, and a notice says so, where the start was made for another kind of network (2.5D for
    3D).
    """
    tensors, card = start
    name = str(card["job"].get("method", "the run before"))
    own = _plan_of(start)
    if (own.dims, own.channels) != (plan.dims, plan.channels):
        emit(
            Notice(
                f"The weights of {name} are of another kind of network, so this starts from random weights."
            )
        )
        return set()
    average = any(key.startswith("modules.average.") for key in tensors)
    state = checkpoint.unpack("modules.average" if average else "modules.network", tensors)
    if card["kind"] == "pretrain":
        state = {key: each for key, each in state.items() if key.startswith(find(card["method"]).TRANSFERS)}
    pretrained = load_matching(network, state, skip)
    emit(Notice(f"Starting from {len(pretrained)} of {len(network.state_dict())} tensors of {name}."))
    return pretrained


def load_for(project: Project, run: Run, device: torch.device) -> tuple[Network, Plan, dict[str, Any]]:
    """The network of a run with its card and the plan by which it looks at the project's scans."""
    network, plan, card = load_network(run.checkpoint)
    if card.get("method") in WITHOUT_SCANS:
        settings = {"dims": 2, "threads": plan.threads}  # nothing to measure: it looks once
        plan = planner.choose(project, list(project.scans), device, settings, network=plan)[0]
    return network.to(device), plan, card


def _plan_of(start: Stored) -> Plan:
    try:
        return jobs.from_json(Plan, start[1]["plan"], "the checkpoint's card")
    except KeyError as error:
        raise UserError(
            "The weights' card has no plan; choose a run that medssl made.", code="foreign-checkpoint"
        ) from error
