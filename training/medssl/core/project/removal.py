"""Removing scans from a project, and deleting runs.

A scan is gone when project.json no longer has it. Before that, what people annotated is copied to where it
stays (kept.py); after that, the files that were computed from the scan are deleted. A kill in between leaves
files that nobody uses: their ids are not given to another scan as long as an image or an annotation has them.
A run is gone when its folder has another name.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medssl.core.errors import UserError
from medssl.core.events import ran_to_completion
from medssl.core.features.landmarks import FILE as LANDMARKS
from medssl.core.features.landmarks import read_landmarks, write_landmarks
from medssl.core.files import exists
from medssl.core.project.disk_usage import files_of
from medssl.core.project.elsewhere import is_elsewhere, need_here, set_elsewhere
from medssl.core.project.kept import keep
from medssl.core.project.locks import CHANGE_FILE, change_lock
from medssl.core.project.manifest import FILE as MANIFEST
from medssl.core.project.project import Project, Run
from medssl.core.project.run_state import need_not_trained
from medssl.core.temporary_files import temporary_file


def remove_scan(project: Project, scan_id: str) -> Path | None:
    """Remove a scan with all that was computed from it. Its own file is never touched.

    The annotation stays in the folder "removed" of the project; adding the same scan again brings it back.
    Landmarks that were set in the scan are deleted.

    Returns:
        Folder in which the annotation is kept; None if there was none.

    Raises:
        UserError: "no-scan", "locked" while a training of this project runs, "read-only", "not-readable",
            "disk-full", "not-writable".
    """
    project.need_writable()
    project.refresh()
    scan = project.scan(scan_id)
    check_not_training(project)
    files = [file.path for file in files_of(project) if file.scan == scan_id]
    kept = keep(project.root, scan)
    project.drop_scan(scan_id)
    with suppress(UserError):  # a damaged file stays as it is; reading ignores scans that are not there
        if exists(project.root / LANDMARKS):
            write_landmarks(project, read_landmarks(project))
    _delete(files)
    return kept


def delete_run(project: Project, run_id: str) -> None:
    """Delete a run: its weights, its log, its predictions and the features computed with it.

    Raises:
        UserError: "no-run", "needed" if a run that is not finished began from it, "locked" while it is being
            trained, "elsewhere" while another computer trains it, "read-only", "not-writable".
    """
    project.need_writable()
    run = project.run(run_id)
    check_deletable(project, run)
    files = [file.path for file in files_of(project) if file.run == run_id]
    outside = [path for path in files if run.folder not in path.parents]
    gone = temporary_file(run.folder)  # which is cleared away later if this process is killed
    with change_lock(project.root):
        try:
            run.folder.rename(gone)
        except OSError as error:
            raise UserError(
                f"{run.folder} could not be deleted ({error.strerror or error}); close programs that have "
                "its files open, and try again.",
                code="not-writable",
            ) from error
    shutil.rmtree(gone, ignore_errors=True)
    _delete(outside)


def release_run(project: Project, run_id: str) -> None:
    """Give up what has not come back of a run that another computer trains: it is one of this computer again.

    For a host that stays away. What came back, such as the weights of the last checkpoint, is kept; a job
    that still runs over there is not stopped.

    Raises:
        UserError: "no-run", "not-elsewhere", "locked" while a process here is connected to that job,
            "read-only", "not-writable".
    """
    project.need_writable()
    run = project.run(run_id)
    if not is_elsewhere(run):
        raise UserError(
            f"{run.id} is not trained on another computer; it can be resumed and deleted as it is.",
            code="not-elsewhere",
        )
    need_not_trained(run)
    set_elsewhere(run, None)


@contextmanager
def refused_leaves_nothing(run: Run, is_new: bool) -> Iterator[None]:
    """Within this context, a UserError before the first checkpoint of a new run deletes its folder."""
    try:
        yield
    except UserError:
        if is_new and not run.checkpoint.exists():
            shutil.rmtree(run.folder, ignore_errors=True)
        raise


def remove_empty(project: Project, with_folder: bool) -> None:
    """Take back a project that was just made, as no scan came into it.

    Args:
        project: A project without scans.
        with_folder: Whether its folder was made for it, too.
    """
    if with_folder:
        shutil.rmtree(project.root, ignore_errors=True)
        return
    for name in (MANIFEST, CHANGE_FILE):
        (project.root / name).unlink(missing_ok=True)
    with suppress(OSError):
        (project.root / "scans").rmdir()


def check_not_training(project: Project) -> None:
    """Raise UserError ("locked") if a process trains a run of the project: it may be using any scan."""
    for run in project.runs():
        need_not_trained(run)


def check_deletable(project: Project, run: Run) -> None:
    """Check that nothing needs a run any more.

    Raises:
        UserError: "needed", "locked", "elsewhere", or "no-run" for the shipped weights.
    """
    if run.shipped:
        raise UserError(
            f"{run.id} are the weights that ship, not a run of the project; name a run to delete.",
            code="no-run",
        )
    need_here(run)
    for other in project.runs():
        unfinished = not ran_to_completion(other.folder / "events.jsonl")
        begun = other.checkpoint.exists() or is_elsewhere(other)
        if other.job.get("weights") == run.id and begun and unfinished:
            raise UserError(
                f"{other.id} began from {run.id} and needs its weights to be resumed; resume it to its end, "
                f"or delete {other.id} first.",
                code="needed",
            )
    need_not_trained(run)


def _delete(files: list[Path]) -> None:
    """Delete files; images come last, because they keep ids from being given to new scans."""
    for path in sorted(files, key=lambda path: path.parent.name == "scans"):
        with suppress(OSError):  # Windows keeps what another process has open
            path.unlink()
