"""Settings of a job that replace what the planner chooses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from medssl.core.errors import UserError
from medssl.core.jobs import Plan
from medssl.nn import devices


def adapt(plan: Plan, device: torch.device, settings: dict[str, Any]) -> Plan:
    """Apply a job's overrides to a plan, and replace bf16 where the device has no instructions for it.

    Raises:
        UserError: "bad-job" for an invalid override.
    """
    precision = settings.get("precision", plan.precision)
    if precision not in ("fp32", "bf16"):
        raise UserError(f"precision {precision!r} is unknown; write fp32 or bf16.", code="bad-job")
    if precision == "bf16" and not devices.fast_bf16(device):
        precision = "fp32"
    batch, threads = whole(settings, "batch", plan.batch), whole(settings, "threads", plan.threads)
    return replace(plan, precision=precision, batch=batch, threads=threads)


def whole(settings: dict[str, Any], name: str, default: int) -> int:
    """A setting that must be a positive integer."""
    value = settings.get(name, default)
    if not isinstance(value, int) or value < 1:
        raise UserError(f"{name} is {value!r}; write a whole number of at least 1.", code="bad-job")
    return value
