"""Files and folders that a search for scans leaves out, in a few lines."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

PLURALS = {
    "copy of a slice": "copies of slices",
    "DICOM index": "DICOM indices",
    "DICOM object without a scan": "DICOM objects without a scan",
    "file that is no DICOM": "files that are no DICOM",
    "folder that cannot be read": "folders that cannot be read",
    "file of none of these channels": "files of none of these channels",
    "second file of a channel": "second files of channels",
    "image whose frames are scaled differently": "images whose frames are scaled differently",
    "image without positions": "images without positions",
    "link to a folder that is searched anyway": "links to folders that are searched anyway",
    "path that cannot be opened": "paths that cannot be opened",
    "path that does not exist": "paths that do not exist",
    "part of a series that has to lie in one folder": "parts of series that have to lie in one folder",
    "second path to a scan": "second paths to scans",
}
"""Of kinds whose plural is not the singular with an "s"."""
NAMED = 3
"""More files of a kind than this are counted."""


class LeftOut:
    """Collects what is left out."""

    def __init__(self) -> None:
        self._paths: dict[str, list[Path]] = defaultdict(list)

    def add(self, kind: str, path: Path) -> None:
        """Note a file or folder.

        Args:
            kind: A noun for it.
            path: The file or folder.
        """
        self._paths[kind].append(path)

    def lines(self) -> list[str]:
        """One line for each kind, without a full stop."""
        return [_line(kind, paths) for kind, paths in sorted(self._paths.items())]


def fault_of(path: Path) -> tuple[str, str] | None:
    """What such a path is called, and what is wrong with it; None for one that can be opened."""
    try:
        path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            return "broken link", "is a link to a file that does not exist"
        return "path that does not exist", "does not exist"
    except OSError as error:
        return "path that cannot be opened", f"cannot be opened ({error.strerror})"
    return None


def _line(kind: str, paths: list[Path]) -> str:
    if len(paths) == 1:
        return f"{kind} {paths[0]}"
    plural = PLURALS.get(kind, f"{kind}s")
    if len(paths) <= NAMED:
        return f"{plural} {', '.join(map(str, paths))}"
    folders = list(dict.fromkeys(path.parent for path in paths))
    if len(folders) == 1:
        return f"{len(paths)} {plural} in {folders[0]}"
    return f"{len(paths)} {plural} in {len(folders)} folders ({folders[0]}, {folders[1]}, ...)"
