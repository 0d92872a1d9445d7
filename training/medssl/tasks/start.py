"""Initial weights of a training or a feature map: those shipped with the program, a run's, or random ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from medssl.core import jobs
from medssl.core.events import Emit, Notice
from medssl.core.jobs import Plan
from medssl.core.project.cards import need
from medssl.core.project.channels import available
from medssl.core.project.project import Project, Run, Scan
from medssl.core.shipped import RANDOM
from medssl.nn import devices
from medssl.nn.methods import find, method_of
from medssl.nn.models import checkpoint
from medssl.nn.models.network_weights import copied_over_channels, load_matching, load_network, of_channels
from medssl.nn.models.unet import Network
from medssl.tasks.plan import overrides, planner
from medssl.tasks.plan.channels import choose_channels
from medssl.tasks.plan.precision_and_threads import measured

Stored = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors and card of a checkpoint."""


def load_start(project: Project, weights: str | None) -> Stored | None:
    """Load the checkpoint that a job starts from.

    Args:
        project: The project with the runs.
        weights: Id of a run, "shapes" for the shipped weights, "random" or None for random weights.

    Returns:
        Tensors and card of the checkpoint; None for random weights.

    Raises:
        UserError: "no-run", "no-checkpoint", "shipped-weights" or "newer-version".
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
    pixels_cpu: int = planner.PIXELS_A_STEP_CPU,
) -> tuple[Plan, list[str]]:
    """Choose the plan of a training that starts from a checkpoint.

    Weights trained on scans determine the plan; weights trained on synthetic volumes fit any scans and
    determine the network only.

    Args:
        project: The project.
        scans: Ids of the scans to train on.
        device: Where to train.
        settings: A job's settings, which override the choices.
        start: The checkpoint to start from; None for random weights.
        pixels_cpu: Pixels per batch on a CPU.

    Returns:
        The plan, and one sentence per decision.

    Raises:
        UserError: "bad-job", "no-scans", or "foreign-checkpoint" for a card without a plan.
    """
    if start is None:
        return planner.choose(project, scans, device, settings, pixels_cpu=pixels_cpu)
    own = _plan_of(start)
    method = method_of(start[1])
    if method is not None and not method.NEEDS_SCANS:
        return planner.choose(project, scans, device, settings, own, pixels_cpu)
    # Precision and threads depend on the current machine, not on the weights.
    reasons = ["slice orientation and patch size are those of the initial weights"]
    if not own.channel_names or "channel_names" in settings:
        own = replace(own, channel_names=choose_channels(project, scans, settings, reasons))
    batch = planner.patches_a_step(own.patch_vox[3 - own.dims :], device, pixels_cpu)
    plan = overrides.adapt(replace(own, batch=batch, threads=devices.THREADS), device, settings)
    plan = measured(project, plan, device, settings, reasons)
    return planner.for_processes(plan, settings, reasons), reasons


def load_weights(
    network: Network, plan: Plan, start: Stored, emit: Emit, skip: tuple[str, ...] = ()
) -> set[str]:
    """Copy the weights of a checkpoint into a network.

    If the checkpoint was made for another architecture (2.5D instead of 3D, other channels) nothing is copied
    and a notice says so. Weights of one channel of a scan fit a network of several (`copied_over_channels`).

    Args:
        network: The network, changed in place.
        plan: The network's plan.
        start: Tensors and card to copy from.
        emit: Receives a Notice.
        skip: Prefixes of tensor names that are not copied.

    Returns:
        Names of the tensors that were copied.
    """
    tensors, card = start
    name = str(card.get("job", {}).get("method", "the previous fine-tuning"))
    start_plan = _plan_of(start)
    if not _fits(plan, start_plan):
        emit(
            Notice(f"The weights of {name} do not fit this network, so training starts from random weights.")
        )
        return set()
    average = any(key.startswith("modules.average.") for key in tensors)
    state = checkpoint.unpack("modules.average" if average else "modules.network", tensors)
    need(card, "kind")
    if card["kind"] == "pretrain":
        need(card, "method")
        transfers = find(card["method"]).TRANSFERS
        state = {key: tensor for key, tensor in state.items() if key.startswith(transfers)}
    if start_plan.n_channels == 1:
        state = copied_over_channels(state, network, plan.n_channels)
    pretrained = load_matching(network, state, skip)
    total = len(network.state_dict())
    new = total - len(pretrained)
    rest = f"the other {new}, such as the head, are new" if new else "all that it has"
    emit(Notice(f"{len(pretrained)} of the network's {total} weight tensors come from {name}; {rest}."))
    for note in note_of_start(plan, start).values():
        emit(Notice(f"The first convolution is {note}."))
    return pretrained


def load_for(project: Project, run: Run, device: torch.device) -> tuple[Network, Plan, dict[str, Any]]:
    """Load the network of a run for use on a project's scans.

    Returns:
        The network on the device, its plan for these scans, and its card; `for_scan` fits them to a scan.

    Raises:
        UserError: "no-checkpoint", "foreign-checkpoint" or "newer-version".
    """
    network, plan, card = load_network(run.checkpoint)
    method = method_of(card)
    if method is not None and not method.NEEDS_SCANS:
        settings = {"dims": 2, "threads": plan.threads}  # nothing to measure: it looks once
        plan = planner.choose(project, list(project.scans), device, settings, network=plan)[0]
    return network.to(device), plan, card


def for_scan(network: Network, plan: Plan, scan: Scan) -> tuple[Network, Plan]:
    """The network and plan of `load_for` for a scan.

    A network that was trained without scans takes one channel: it gets the mean of those that the scan has,
    so that scans with and without a channel remain comparable.
    """
    if network.in_channels == plan.in_channels:
        return network, plan
    plan = replace(plan, channel_names=available(scan, plan.channel_names))
    return of_channels(network, plan), plan


def note_of_start(plan: Plan, start: Stored | None) -> dict[str, str]:
    """What a card says of the first convolution where weights of one channel start a network of several."""
    start_plan = None if start is None else _plan_of(start)
    count = plan.n_channels
    if start_plan is None or start_plan.n_channels > 1 or count == 1 or not _fits(plan, start_plan):
        return {}
    return {"first_convolution": f"that of one channel, copied for each of {count} and divided by {count}"}


def _fits(plan: Plan, start_plan: Plan) -> bool:
    """Whether weights of one plan can be copied into the network of another."""
    of_these = start_plan.n_channels == 1 or start_plan.channel_names == plan.channel_names
    return of_these and (start_plan.dims, start_plan.channels) == (plan.dims, plan.channels)


def _plan_of(start: Stored) -> Plan:
    need(start[1], "plan")
    return jobs.from_json(Plan, start[1]["plan"], "the checkpoint's card")
