"""Weights of another project become a run of this one, to segment and fine-tune its scans with."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from medssl.core.errors import UserError
from medssl.core.events import Done, Started, to_line
from medssl.core.files import write_whole
from medssl.core.json_files import write_json
from medssl.core.labels.classes import add_classes
from medssl.core.project.cards import need
from medssl.core.project.project import Project, Run, is_project
from medssl.core.project.removal import refused_leaves_nothing
from medssl.core.project.runs import CHECKPOINT
from medssl.core.weights_file import copy_with_card, read_card

KINDS = ("pretrain", "finetune")
NAME = "imported"
"""Last part of the id of such a run."""


def add_weights(project: Project, path: Path) -> Run:
    """Copy weights of another project into a new run.

    Classes of a network are those of the project with the names that they have in the other project now;
    those that the project lacks are added. The run cannot be resumed, because the scans that it was trained
    on are not here.

    Args:
        project: The project that gets the run.
        path: A file of weights, or the folder of a run.

    Returns:
        The run.

    Raises:
        UserError: "missing", "foreign-checkpoint", "damaged-checkpoint", "newer-version", "too-many"
            classes, "disk-full", "not-writable", "read-only".
    """
    path = path / CHECKPOINT if path.is_dir() else path
    if not path.is_file():
        raise UserError(
            f"{path} does not exist; give the folder of a run, or its {CHECKPOINT}.", code="missing"
        )
    card = read_card(path)
    need(card, "kind", "plan", "job", where=str(path))
    kind = str(card["kind"])
    if kind not in KINDS:
        raise UserError(
            f"{path} holds no weights of a pre-training or fine-tuning; choose another file.",
            code="foreign-checkpoint",
        )
    project.need_writable()
    if kind == "finetune":
        card = {**card, "classes": _classes_here(project, card, path)}
    run = project.new_run(kind, {**card["job"], "project": str(project.root), "resume": None}, NAME)
    card = {**card, "run": run.id, "weights": None, "validation_slice": None}
    with refused_leaves_nothing(run, True):
        # Whoever reads the log finds a training that has ended, so nobody offers to go on with it.
        log = "".join(f"{to_line(event)}\n" for event in (Started(run.id), Done(result={})))
        write_whole(run.folder / "events.jsonl", lambda file: file.write(log.encode()))
        write_json(run.folder / "card.json", card)
        copy_with_card(path, run.checkpoint, card)
    return run


def _classes_here(project: Project, card: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """The classes of a network with their ids in this project."""
    need(card, "classes", where=str(path))
    there = _names_there(path)
    classes = [{**item, "name": there.get(item["id"], item["name"])} for item in card["classes"]]
    add_classes(project, [item["name"] for item in classes])
    ids = {item.name: item.id for item in project.classes}
    return [{**item, "id": ids[item["name"]]} for item in classes]


def _names_there(path: Path) -> dict[int, str]:
    """{class id: name} in the project that a run lies in, where a class may have got another name since."""
    runs = path.absolute().parent.parent
    if runs.name == "runs" and is_project(runs.parent):
        with suppress(UserError):  # a damaged one
            return {item.id: item.name for item in Project.open(runs.parent).classes}
    return {}
