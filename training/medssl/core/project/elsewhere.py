"""Runs that are trained on another computer: remote.json in their folder says where, until all is back."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from medssl.core.errors import UserError
from medssl.core.files import cannot_write, exists, sync_folder
from medssl.core.json_files import read_json, write_json
from medssl.core.project.runs import Run
from medssl.core.shell import command
from medssl.core.typed import convert

FILE = "remote.json"


@dataclass(frozen=True)
class Elsewhere:
    """Where a run is trained."""

    host: str
    job: str
    """Id of its job there."""


def elsewhere(run: Run) -> Elsewhere | None:
    """Where a run is trained; None for here, or nowhere any more.

    Raises:
        UserError: "unreadable", "not-readable".
    """
    path = run.folder / FILE
    return convert(Elsewhere, read_json(path), str(path), "unreadable") if is_elsewhere(run) else None


def is_elsewhere(run: Run) -> bool:
    """Whether a run is trained on another computer, even if what says where is damaged."""
    return exists(run.folder / FILE)


def set_elsewhere(run: Run, place: Elsewhere | None) -> None:
    """Write where a run is trained, or that it is back.

    Raises:
        UserError: "disk-full", "not-writable", "no-folder".
    """
    path = run.folder / FILE
    if place is not None:
        write_json(path, asdict(place))
        return
    try:
        path.unlink(missing_ok=True)
        sync_folder(run.folder)  # the job over there is deleted next
    except OSError as error:
        raise cannot_write(path, error) from error


def need_here(run: Run) -> None:
    """Check that a run is not trained on another computer: nothing else may train or delete it.

    Raises:
        UserError: "elsewhere".
    """
    place = elsewhere(run)
    if place is not None:
        raise UserError(
            f"{run.id} is trained on {place.host}; take it up there (--on {place.host}), or give up what has "
            f"not come back with {command('runs', run.folder.parent.parent, '--release', run.id)}.",
            code="elsewhere",
        )
