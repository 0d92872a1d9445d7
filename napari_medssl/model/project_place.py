"""Where a project is opened or made."""

from __future__ import annotations

import os
from pathlib import Path

from medssl.core.files import cannot_read, exists
from medssl.core.project.project import is_project

PROJECT_NAME = "medssl-project"


def place_in(folder: Path) -> Path:
    """The project folder that is meant by a folder.

    Args:
        folder: A project, a folder that contains one, or where to make one. Files of others stay apart from
            those of a project, so in a folder that is not empty a project has a folder of its own.

    Returns:
        The folder of the project, which need not exist yet.

    Raises:
        UserError: "not-readable".
    """
    inside = folder / PROJECT_NAME
    if is_project(folder):
        return folder
    if is_project(inside):
        return inside
    try:
        return inside if exists(folder) and any(folder.iterdir()) else folder
    except OSError as error:
        raise cannot_read(folder, error) from error


def place_beside(scan: Path) -> Path:
    """The proposed folder for the project of a scan: beside it, or at home if nothing can be written there.

    Args:
        scan: The first scan of the project, a file or a DICOM folder.
    """
    folder = scan.absolute().parent
    beside = folder / PROJECT_NAME
    if is_project(beside) or os.access(folder, os.W_OK):
        return beside
    return place_at_home(folder.name)


def place_at_home(name: str = "") -> Path:
    """The proposed folder for a project of scans that have no folder that can be written.

    Args:
        name: Name of the folder of the scans, if they have one.
    """
    return Path.home() / (f"medssl-{name}" if name else PROJECT_NAME)
