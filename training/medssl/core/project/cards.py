"""What is asked of a run's job and of the card of its weights; other fields may be there, too.

Cards leave the project with the weights, so they identify scans by fingerprints and hold no paths.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypedDict

from msgspec import Meta

from medssl.core import migrations
from medssl.core.errors import UserError
from medssl.core.typed import convert


class CardClass(TypedDict):
    """A class that a network was fine-tuned for."""

    id: Annotated[int, Meta(ge=1, le=254)]
    name: str


Range = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Lowest and highest value along canonical (z, y, x)."""


class TrainingData(TypedDict):
    """What the scans of a training were like, see `medssl.core.project.training_data`."""

    modalities: list[str]
    spacing_mm: Range
    size_mm: Range


class CardSlice(TypedDict):
    """A slice that was held out of a fine-tuning."""

    scan: str
    """Fingerprint of the scan; its id in former cards, and in those with names."""
    index: int


class CardFields(TypedDict, total=False):
    """Fields of a card that somebody reads."""

    format: int
    kind: str
    method: str
    plan: dict[str, Any]
    job: dict[str, Any]
    step: int
    elapsed_s: float
    run: str
    """Id of the run, so that a file in the folder of another one is noticed."""
    classes: list[CardClass]
    scans: list[str]
    training_data: TrainingData
    weights: str | None
    collapse_report: dict[str, Any]
    validation_slice: CardSlice | None


class JobFields(TypedDict, total=False):
    """Fields of a run's job that are read without making a job of it."""

    job: str
    method: str
    weights: str | None


def check_card(card: Any, where: str, code: str = "foreign-checkpoint") -> dict[str, Any]:
    """Check the types of a card's fields.

    Args:
        card: What the file holds.
        where: What the error message calls the file.
        code: Code of the error.

    Returns:
        The card under today's names (migrations.py).

    Raises:
        UserError: `code`.
    """
    card = migrations.card(card) if isinstance(card, dict) else card
    convert(CardFields, card, where, code)
    return card


def check_job(job: Any, where: str) -> dict[str, Any]:
    """Check the types of the fields of a run's job.

    Args:
        job: What the file holds.
        where: What the error message calls the file.

    Returns:
        The job under today's names (migrations.py).

    Raises:
        UserError: "unreadable".
    """
    job = migrations.job(job) if isinstance(job, dict) else job
    convert(JobFields, job, where, "unreadable")
    return job


def job_without_names(job: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a job without paths and names of scans."""
    return {name: value for name, value in job.items() if name not in ("project", "predict_scans")}


def card_without_names(card: Mapping[str, Any], fingerprints: Mapping[str, str]) -> dict[str, Any]:
    """A card, or a part of one, without paths and names of scans.

    Args:
        card: Fields of a card.
        fingerprints: SHA-256 of the project's scans by id; they replace the ids.
    """
    new = dict(card)
    if "job" in new:
        new["job"] = job_without_names(new["job"])
    if "scans" in new:
        new["scans"] = [fingerprints[scan] for scan in new["scans"]]
    held_out = new.get("validation_slice")
    if held_out is not None:
        new["validation_slice"] = {**held_out, "scan": fingerprints[held_out["scan"]]}
    return new


def card_with_ids(card: Mapping[str, Any], fingerprints: Mapping[str, str]) -> dict[str, Any]:
    """A card whose validation slice has the id of its scan instead of its fingerprint.

    Args:
        card: Fields of a card.
        fingerprints: SHA-256 of the project's scans by id.
    """
    held_out = card.get("validation_slice")
    if held_out is None:
        return dict(card)
    ids = {fingerprint: scan for scan, fingerprint in fingerprints.items()}
    return {**card, "validation_slice": {**held_out, "scan": ids.get(held_out["scan"], held_out["scan"])}}


def need(card: dict[str, Any], *names: str, where: str = "The weights' card") -> None:
    """Raises UserError ("foreign-checkpoint") where the card lacks one of these fields."""
    for name in names:
        if name not in card:
            raise UserError(
                f"{where} has no {name}; choose a run that medssl made.", code="foreign-checkpoint"
            )
