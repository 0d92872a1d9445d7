"""Classes and scans of an open project: project.json, which several processes and threads read and change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from medssl.core.errors import UserError
from medssl.core.files import exists, read_bytes, write_json
from medssl.core.project.contents import Contents, LabelClass, Scan, check_classes, parse_contents, to_json
from medssl.core.project.folder import ProjectFolder
from medssl.core.project.locks import change_lock
from medssl.core.project.new_image import NewImage

Result = TypeVar("Result")

FILE = "project.json"


def is_project(path: Path) -> bool:
    """Whether a folder holds a project."""
    return (Path(path) / FILE).is_file()


class Manifest(ProjectFolder):
    """Classes and scans of a project, as they were when this process read or changed them last.

    Whatever changes them is a function of the state on disk, and is called with that state under a lock.
    """

    classes: tuple[LabelClass, ...]
    former_view_state: dict[str, Any]
    """State of the viewer that a former version has left in project.json."""
    read_only: str
    """The reason why this process may not change the project, one sentence; empty if it may."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.read_only = ""
        self._threads = Lock()
        self._bytes: bytes | None = None
        self._read()

    def refresh(self) -> None:
        """Take over what other processes have changed.

        Raises:
            UserError: "not-a-project", "project-gone", "newer-version", "not-readable", "unreadable".
        """
        self.need_here()
        with self._threads:
            self._read()

    def _read(self) -> None:
        """Parsing 500 scans takes much longer than reading them, so what is known is not parsed again."""
        path = self.root / FILE
        if not exists(path):
            raise UserError(
                f"{self.root} holds no project; make one with `medssl init` or by adding scans in the "
                "viewer.",
                code="not-a-project",
            )
        content = read_bytes(path)
        if content != self._bytes:
            self._take(parse_contents(content, path, self.scans), content)

    def _take(self, contents: Contents, content: bytes) -> None:
        self._contents, self._bytes = contents, content
        self.classes, self.former_view_state = contents.classes, contents.former_view_state
        self.scans = {scan.id: scan for scan in contents.scans}

    def need_writable(self) -> None:
        """Raise UserError ("read-only", "project-gone") if this process may not change the project."""
        if self.read_only:
            raise UserError(self.read_only, code="read-only")
        self.need_here()

    def change(self, change: Callable[[Contents], Contents]) -> None:
        """Replace the contents of project.json by what `change` makes of the current ones.

        `change` is called under the lock of the project, after `classes` and `scans` have been read again.

        Raises:
            UserError: "read-only", "locked", "disk-full", "not-writable", and those of `change`.
        """

        def write_changed() -> None:
            changed = change(self._contents)
            if changed != self._contents:
                self._take(changed, write_json(self.root / FILE, to_json(changed)))

        self._locked(write_changed)

    def _locked(self, action: Callable[[], Result]) -> Result:
        """Call `action` while no other process or thread changes the project, whose present state is read."""
        self.need_writable()
        with change_lock(self.root), self._threads:
            self._read()
            return action()

    def _scan(self, scan_id: str) -> Scan:
        if scan_id not in self.scans:
            raise UserError(
                f"{self.root} has no scan {scan_id!r}; it has {', '.join(self.scans) or 'none yet'}.",
                code="no-scan",
            )
        return self.scans[scan_id]

    def _has(self, scan_id: str) -> bool:
        """Whether the project on disk has a scan."""
        self.refresh()
        return scan_id in self.scans

    def _known(self, digest: str) -> Scan | None:
        return next((scan for scan in self.scans.values() if scan.sha256 == digest), None)

    def _insert(self, scan: Scan, image: NewImage, name: str) -> None:
        """Add a scan under a free id (see `NewImage.give_name`), unless another process has added it."""

        def insert(contents: Contents) -> Contents:
            if self._known(scan.sha256) is not None:
                return contents
            scan_id = image.give_name(Path(scan.source), self.scans, name)
            return replace(contents, scans=(*contents.scans, replace(scan, id=scan_id)))

        self.change(insert)

    def hold_out(self, scan_id: str, held_out: bool = True) -> None:
        """Exclude a scan from all training, or include it again."""
        self._change_scan(scan_id, lambda scan: replace(scan, held_out=held_out))

    def set_reference(self, scan_id: str, labels: Path | None) -> None:
        """Set the label file against which predictions of a scan are evaluated; None removes it."""
        reference = str(Path(labels).absolute()) if labels else ""
        self._change_scan(scan_id, lambda scan: replace(scan, reference=reference))

    def _change_scan(self, scan_id: str, change: Callable[[Scan], Scan]) -> None:
        def change_one(contents: Contents) -> Contents:
            changed = {**self.scans, scan_id: change(self._scan(scan_id))}
            return replace(contents, scans=tuple(changed.values()))

        self.change(change_one)

    def set_classes(self, classes: Sequence[LabelClass]) -> None:
        """Replace the list of classes; raises the errors of `check_classes`."""
        self.change_classes(lambda _: classes)

    def change_classes(self, change: Callable[[tuple[LabelClass, ...]], Sequence[LabelClass]]) -> None:
        """Replace the list of classes by what `change` makes of the current one.

        Raises:
            UserError: Those of `check_classes` and of `change`.
        """
        self.change(lambda now: replace(now, classes=check_classes(change(now.classes))))
