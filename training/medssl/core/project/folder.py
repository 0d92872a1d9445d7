"""The folder of an open project: whether it is still there, and what is made inside it."""

from __future__ import annotations

from pathlib import Path

from medssl.core.errors import UserError
from medssl.core.files import cannot_read, make_folder, read_bytes
from medssl.core.project.contents import Scan, parse_contents
from medssl.core.temporary_files import remove_unfinished

GONE = "project-gone"
"""Code of the error for a project that was moved, deleted or replaced."""


class ProjectFolder:
    """A project's folder, told from another one that has come to the same path.

    It is known by its number in the file system. Network drives may give it another one when they are
    connected again, so a folder that has all scans of the project counts as the same, too.
    """

    root: Path
    scans: dict[str, Scan]
    """{scan id: scan} in the order in which they were added."""

    def __init__(self, root: Path) -> None:
        self.root, self.scans = Path(root), {}
        self._number = self._number_now()

    def need_here(self) -> None:
        """Check that the project is where it was when it was opened.

        Raises:
            UserError: "project-gone" if it was moved, deleted or replaced; "not-readable" if that cannot be
                known.
        """
        number = self._number_now()
        if number is not None and number == self._number:
            return
        if number is None or not self._has_our_scans():
            raise UserError(
                f"{self.root} is no longer there (it was moved, deleted or replaced); move it back to save, "
                "or open the project where it is now.",
                code=GONE,
            )
        self._number = number

    def make_folder(self, *names: str) -> Path:
        """A folder inside the project, created if necessary.

        Args:
            names: Names of the folders that lead to it.

        Raises:
            UserError: "project-gone", "disk-full", "not-writable".
        """
        self.need_here()
        return make_folder(self.root.joinpath(*names), below=self.root)

    def remove_unfinished(self) -> None:
        """Delete what killed processes were writing into the project."""
        inside = (self.root.glob(pattern) for pattern in ("*/", "runs/*/", "runs/*/*/"))
        for folder in (self.root, *(each for folders in inside for each in folders)):
            remove_unfinished(folder)

    def _has_our_scans(self) -> bool:
        path = self.root / "project.json"
        scans = parse_contents(read_bytes(path), path, self.scans).scans
        there = {(scan.id, scan.sha256) for scan in scans}
        ours = {(scan.id, scan.sha256) for scan in self.scans.values()}
        return bool(ours) and ours <= there

    def _number_now(self) -> tuple[int, int] | None:
        """Numbers of drive and folder; None if there is no project."""
        try:
            (self.root / "project.json").stat()
            folder = self.root.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise cannot_read(self.root, error) from error
        return folder.st_dev, folder.st_ino
