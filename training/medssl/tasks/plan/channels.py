"""Which channels of its scans a network takes, and which scans have them (core/project/channels.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medssl.core.errors import UserError
from medssl.core.events import Emit, Notice
from medssl.core.project.channels import channel_names, having, lacks, left_out, number_of
from medssl.core.project.names import as_channel_name
from medssl.core.project.project import Project, Run


def choose_channels(
    project: Project, scans: Sequence[str], settings: dict[str, Any], reasons: list[str]
) -> tuple[str, ...]:
    """The channels that a new network takes: those in the settings, else all that the scans have.

    Args:
        project: The project.
        scans: Ids of the scans to train on.
        settings: A job's settings.
        reasons: Receives one sentence if there are several channels.

    Returns:
        `Plan.channel_names`.

    Raises:
        UserError: "bad-job" if the settings name a channel that no scan has.
    """
    known = channel_names(project.scans[scan] for scan in scans)
    requested = settings.get("channel_names")
    if requested is None:
        if known:
            reasons.append(f"channels {in_words(known)}")
        return known
    names = tuple(as_channel_name(str(name)) for name in requested)
    first = {project.scans[scan].channel for scan in scans}
    unknown = [name for name in names if name not in {*known, *first}]
    if unknown or len(set(names)) < len(names):
        has = f"its scans have {in_words(known)}" if known else "its scans have one channel each"
        raise UserError(
            f"channel_names is {', '.join(names)}, but {has}; name each of them once at most.", code="bad-job"
        )
    reasons.append(f"channels {in_words(names)}, as requested")
    return names


def in_words(names: Sequence[str]) -> str:
    """`Plan.channel_names` as a text."""
    return ", ".join(name or "the first" for name in names or ("",))


def with_channels(
    project: Project,
    scans: Sequence[str],
    names: Sequence[str],
    emit: Emit,
    others: Sequence[str] = (),
    required: bool = True,
) -> list[str]:
    """The scans that have the channels of a network; a Notice names those that have not.

    Args:
        project: The project.
        scans: Ids of the scans.
        names: `Plan.channel_names`.
        emit: Receives the notice.
        others: Ids of scans that the notice is about, too.
        required: Raise an error if none of `scans` has them.

    Raises:
        UserError: "no-channel".
    """
    asked = [project.scans[scan] for scan in scans]
    kept = having(asked, names)
    if required and asked and not kept:
        channel = lacks(asked[0], names)
        number_of(asked[0], channel)  # which raises the error
    about = {scan.id: scan for scan in (*asked, *(project.scans[other] for other in others))}
    if text := left_out(about.values(), names):
        emit(Notice(text))
    return kept


def reasons(project: Project, scans: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """{scan id: a sentence} of the scans that lack a channel of a network."""
    lacking = {scan: left_out([project.scans[scan]], names) for scan in scans}
    return {scan: text for scan, text in lacking.items() if text}


def channels_of(run: Run) -> tuple[str, ...]:
    """`Plan.channel_names` of a run's network."""
    return tuple(run.card.get("plan", {}).get("channel_names", ()))
