"""The command medssl view. It starts the viewer as a process of its own: Qt never enters this one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

OPEN_A_WINDOW = "from qtpy.QtWidgets import QApplication; QApplication([])"
NO_BINDING = "QtBindingsNotFoundError"


def view(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATHS",
            show_default=False,
            help="Scan files, DICOM folders or folders of scans, a project folder, or a project and scans to "
            "add to it.",
        ),
    ] = None,
) -> None:
    """Open the viewer (napari) with the dock, and a project or scans in it.

    Scans become a project; its place is shown before it is made. Without a path, the dock lists the recent
    projects.
    """
    open_viewer(paths or [])


def open_viewer(paths: Sequence[Path]) -> None:
    """Open the viewer, and return when its window is closed.

    Args:
        paths: Scans, folders of scans, at most one project; a path that does not exist is named, and the
            others are opened.

    Raises:
        UserError: "missing" if no path exists, "several-projects", "no-qt", "no-display".
        typer.Exit: The viewer has ended with an error, or a path does not exist.
    """
    from medssl.cli.refusals import Refusals
    from medssl.core.errors import UserError
    from medssl.core.project.manifest import is_project

    refusals = Refusals()
    paths = refusals.resolve(paths, _existing)
    projects = [str(path) for path in paths if is_project(path)]
    if len(projects) > 1:
        raise UserError(
            f"{' and '.join(projects)} are projects, and a window shows one; give one.",
            code="several-projects",
        )
    check_window()
    window = subprocess.Popen([sys.executable, "-m", "napari_medssl", *map(str, paths)])
    try:
        window.wait()
    except KeyboardInterrupt:  # the window has got Ctrl-C, too, and closes
        window.wait()
    if window.returncode:
        raise typer.Exit(1)
    refusals.end()


def _existing(path: Path) -> Path:
    from medssl.core.errors import UserError
    from medssl.core.files import exists

    if not exists(path):
        raise UserError(f"{path} does not exist; check the path.", code="missing")
    return path


def check_window() -> None:
    """Check that a window can be opened: where it cannot, Qt ends the process that tries.

    Raises:
        UserError: "no-qt" without a Qt binding, "no-display".
    """
    from medssl.core.errors import UserError

    tried = subprocess.run([sys.executable, "-c", OPEN_A_WINDOW], capture_output=True, text=True, check=False)
    if tried.returncode == 0:
        return
    if NO_BINDING in tried.stderr:
        raise UserError(
            "napari has no Qt to draw a window with; install a binding: pip install PyQt6.", code="no-qt"
        )
    reason = next(iter(tried.stderr.split("\n")), "").strip().rstrip(".")
    raise UserError(
        f"No window can be opened here ({reason}); use a machine with a display, or the other commands.",
        code="no-display",
    )
