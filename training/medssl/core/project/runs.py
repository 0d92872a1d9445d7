"""Runs: the numbered folders that trainings leave in a project."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from medssl.core import migrations, shipped
from medssl.core.errors import UserError
from medssl.core.files import cannot_write, read_json, sha256_of, write_json

_NAME = re.compile(r"(\d{4,})-([A-Za-z0-9_]+)(-.*)?")


@dataclass(frozen=True)
class Run:
    """A training and what it left; ids begin with the number of their start."""

    id: str
    kind: str
    folder: Path
    job: dict[str, Any]
    shipped: bool = False
    """Its weights are part of the program; the folder holds what was made with them."""

    @property
    def checkpoint(self) -> Path:
        """Where the weights are, or will be.

        Raises UserError ("shipped-weights") where the program's own are missing or damaged.
        """
        return shipped.weights_file() if self.shipped else self.folder / "checkpoint.safetensors"

    @property
    def weights_sha256(self) -> str:
        """Fingerprint of the weights as they are now; "" where there are none."""
        if not self.checkpoint.exists():
            return ""
        file = self.checkpoint.stat()
        return _fingerprint(self.checkpoint, file.st_mtime_ns, file.st_size)

    @property
    def card(self) -> dict[str, Any]:
        """What is known of the weights; empty before the first checkpoint."""
        if self.shipped:
            return shipped.card()
        path = self.folder / "card.json"
        card = read_json(path) if path.exists() else {}
        return migrations.card(card) if isinstance(card, dict) else card

    @property
    def collapse_report(self) -> dict[str, Any]:
        """How the pre-training went (collapse_monitor.py); empty before its end."""
        try:
            collapse_report = self.card.get("collapse_report")
        except (UserError, AttributeError):
            return {}  # a damaged card says nothing; whoever needs the weights will be told
        return collapse_report if isinstance(collapse_report, dict) else {}

    @property
    def collapsed(self) -> bool:
        """Whether it is a pre-training to whose network nearly all places look the same."""
        return self.collapse_report.get("collapsed") is True


@lru_cache(maxsize=16)
def _fingerprint(path: Path, changed_ns: int, size: int) -> str:
    """Weights are read once, not for each of a hundred scans."""
    return sha256_of(path)


def make_run(folder: Path, kind: str, job: dict[str, Any], name: str) -> Run:
    """A new run under `folder`, numbered after the last one, with its job file.

    Two processes at once get different runs. Raises UserError ("disk-full", "not-writable").
    """
    number = max((_number(each.name) for each in folder.glob("*")), default=0) + 1
    while True:
        run_id = f"{number:04d}-{kind}-{name}"
        try:
            (folder / run_id).mkdir(parents=True)
            break
        except FileExistsError:
            number += 1
        except OSError as error:
            raise cannot_write(folder / run_id, error) from error
    write_json(folder / run_id / "job.json", job)
    return Run(run_id, kind, folder / run_id, job)


def list_runs(folder: Path) -> list[Run]:
    """All runs under `folder`, oldest first; folders whose job file is missing or damaged are left out."""
    found = []
    for path in sorted(folder.glob("*/job.json"), key=lambda path: (_number(path.parent.name), path)):
        try:
            found.append(find_run(folder, path.parent.name))
        except UserError:
            continue  # a run that was cut off at its very start, or no run at all
    return found


def find_run(folder: Path, run_id: str) -> Run:
    """The run of that id under `folder`; shipped.SHAPES is the program's own weights.

    Raises UserError ("no-run", "unreadable").
    """
    if run_id == shipped.SHAPES:
        return Run(run_id, "pretrain", folder / run_id, shipped.card().get("job", {}), shipped=True)
    named = _NAME.fullmatch(run_id)
    path = folder / run_id / "job.json"
    if named is None or path.parent.parent != folder or not path.is_file():
        known = ", ".join(sorted(each.name for each in folder.glob("*") if _number(each.name)))
        raise UserError(f"{folder} has no run {run_id!r}; it has {known or 'none yet'}.", code="no-run")
    job = read_json(path)
    if not isinstance(job, dict):
        raise UserError(f"{path} is no job file; restore it or delete the run.", code="unreadable")
    return Run(run_id, named[2], path.parent, migrations.job(job))


def refuse_collapsed(run: Run) -> None:
    """Raises UserError ("collapsed") for weights that are worse to start from than random ones."""
    if run.collapsed and run.shipped:
        raise UserError(
            "The weights that belong to this program have collapsed, nearly all places look the same to "
            "them; install napari-medssl again, or start from random weights (--weights random).",
            code="collapsed",
        )
    if run.collapsed:
        raise UserError(
            f"{run.id} has collapsed, nearly all places look the same to it; pre-train again with a smaller "
            "learning rate or another method (mae), or start from random weights.",
            code="collapsed",
        )


def _number(name: str) -> int:
    named = _NAME.fullmatch(name)
    return int(named[1]) if named else 0
