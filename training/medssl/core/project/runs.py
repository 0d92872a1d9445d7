"""Runs: the numbered folders of trainings in a project."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from medssl.core import shipped
from medssl.core.errors import UserError
from medssl.core.files import cached_sha256, cannot_write, exists, make_folder, sync_folder, write_whole
from medssl.core.json_files import read_json, write_json
from medssl.core.project.cards import check_card, check_job

CHECKPOINT = "checkpoint.safetensors"
"""Name of the file with a run's weights."""
COPIED = ("job.json", "card.json", CHECKPOINT)
"""Files of a run that a prediction with its weights needs."""
_NAME = re.compile(r"(\d{4,})-([A-Za-z0-9_]+)(-.*)?")


@dataclass(frozen=True)
class Run:
    """A training and its results; ids begin with a running number."""

    id: str
    kind: str
    folder: Path
    job: dict[str, Any]
    shipped: bool = False
    """Whether the weights are the shipped ones; the folder then holds only results made with them."""

    @property
    def checkpoint(self) -> Path:
        """Path of the weights, which need not exist yet.

        Raises:
            UserError: "shipped-weights" if the shipped weights are missing or damaged.
        """
        return shipped.weights_file() if self.shipped else self.folder / CHECKPOINT

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the current weights; "" if there are none."""
        return cached_sha256(self.checkpoint) if self.checkpoint.exists() else ""

    @property
    def card(self) -> dict[str, Any]:
        """What is known of the weights; empty before the first checkpoint.

        Raises UserError ("unreadable") where it is damaged.
        """
        if self.shipped:
            return shipped.card()
        path = self.folder / "card.json"
        return check_card(read_json(path), str(path), "unreadable") if exists(path) else {}

    @property
    def collapse_report(self) -> dict[str, Any]:
        """Collapse report of a pre-training (collapse_monitor.py); empty before its end."""
        try:
            return self.card.get("collapse_report") or {}
        except UserError:
            return {}  # using the weights will report a damaged card

    @property
    def collapsed(self) -> bool:
        """Whether this is a pre-training whose features are nearly the same everywhere."""
        return self.collapse_report.get("collapsed") is True


def make_run(folder: Path, kind: str, job: dict[str, Any], name: str) -> Run:
    """Create the folder and the job file of a run, numbered after the last one. Needs the change lock.

    Args:
        folder: The "runs" folder of a project, which exists.
        kind: "pretrain", "finetune", ...
        job: The job as `jobs.to_json` makes it.
        name: Last part of the run's id.

    Raises:
        UserError: "disk-full", "not-writable".
    """
    name = re.sub(r"[^A-Za-z0-9_+.-]+", "-", name).rstrip(".")  # methods of other packages choose theirs
    number = max((_number(path.name) for path in folder.glob("*")), default=0) + 1
    run_id = f"{number:04d}-{kind}-{name}"
    try:
        (folder / run_id).mkdir()
        sync_folder(folder)
    except OSError as error:
        raise cannot_write(folder / run_id, error) from error
    write_json(folder / run_id / "job.json", job)
    return Run(run_id, kind, folder / run_id, job)


def copy_run(run: Run, project_root: Path) -> None:
    """Copy a run's weights into another project, so that scans can be predicted there.

    Raises:
        UserError: "disk-full", "no-folder", "not-writable".
    """
    folder = make_folder(project_root / "runs" / run.id, below=project_root)
    for name in COPIED:
        if (run.folder / name).exists():
            with (run.folder / name).open("rb") as source:
                write_whole(folder / name, partial(shutil.copyfileobj, source))


def list_runs(folder: Path) -> list[Run]:
    """All runs under `folder`, oldest first; folders whose job file is missing or damaged are skipped."""
    return [run for run in read_runs(folder) if isinstance(run, Run)]


def read_runs(folder: Path) -> Iterator[Run | UserError]:
    """All runs under `folder`, oldest first; the error where a job file cannot be read."""
    for path in sorted(folder.glob("*/job.json"), key=lambda path: (_number(path.parent.name), path)):
        try:
            yield find_run(folder, path.parent.name)
        except UserError as error:
            yield error


def find_run(folder: Path, run_id: str) -> Run:
    """The run with an id under `folder`; `shipped.SHAPES` stands for the shipped weights.

    Raises:
        UserError: "no-run", "unreadable".
    """
    if run_id == shipped.SHAPES:
        return Run(run_id, "pretrain", folder / run_id, shipped.card().get("job", {}), shipped=True)
    named = _NAME.fullmatch(run_id)
    path = folder / run_id / "job.json"
    if named is None or path.parent.parent != folder or not path.is_file():
        known = ", ".join(sorted(each.name for each in folder.glob("*") if _number(each.name)))
        raise UserError(f"{folder} has no run {run_id!r}; it has {known or 'none yet'}.", code="no-run")
    job = check_job(read_json(path), str(path))
    return Run(run_id, named[2], path.parent, job)


def refuse_collapsed(run: Run) -> None:
    """Refuse collapsed weights, which are a worse start than random ones.

    Raises:
        UserError: "collapsed".
    """
    if run.collapsed and run.shipped:
        raise UserError(
            "The shipped weights have collapsed: their features are nearly the same everywhere; install "
            "napari-medssl again, or start from random weights (--weights random).",
            code="collapsed",
        )
    if run.collapsed:
        raise UserError(
            f"{run.id} has collapsed: its features are nearly the same everywhere; pre-train again with a "
            "smaller learning rate or another method (mae), or start from random weights.",
            code="collapsed",
        )


def number_of(run: Run) -> int:
    """The running number of a run; 0 for the shipped weights."""
    return _number(run.id)


def _number(name: str) -> int:
    named = _NAME.fullmatch(name)
    return int(named[1]) if named else 0
