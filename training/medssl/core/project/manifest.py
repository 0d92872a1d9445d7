"""Classes and scans of an open project: project.json, which several processes and threads read and change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from medssl.core.errors import UserError
from medssl.core.files import exists, read_bytes
from medssl.core.json_files import write_json
from medssl.core.project.contents import (
    Contents,
    LabelClass,
    Scan,
    check_classes,
    parse_contents,
    to_json,
)
from medssl.core.project.folder import ProjectFolder
from medssl.core.project.kept import discard, put_back
from medssl.core.project.locks import change_lock
from medssl.core.project.names import check_scan_name
from medssl.core.project.new_image import NewImage

Result = TypeVar("Result")

FILE = "project.json"
MAX_NAMED = 20
"""Number of scans that a message lists."""


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

    def scan(self, scan_id: str) -> Scan:
        """The scan with an id.

        Raises:
            UserError: "no-scan".
        """
        if scan_id not in self.scans:
            known = ", ".join(list(self.titles.values())[:MAX_NAMED])
            more = f" and {len(self.scans) - MAX_NAMED} more" if len(self.scans) > MAX_NAMED else ""
            raise UserError(
                f"{self.root} has no scan {scan_id!r}; it has {known or 'none yet'}{more}.", code="no-scan"
            )
        return self.scans[scan_id]

    @property
    def titles(self) -> dict[str, str]:
        """{scan id: the name that a person reads}."""
        return {scan.id: scan.title for scan in self.scans.values()}

    def scan_named(self, name: str) -> Scan:
        """The scan with an id or, if it is nobody's id, with a name.

        Raises:
            UserError: "no-scan".
        """
        named = {scan.name: scan.id for scan in self.scans.values() if scan.name}
        return self.scan(name if name in self.scans else named.get(name, name))

    def _has(self, scan_id: str) -> bool:
        """Whether the project on disk has a scan."""
        self.refresh()
        return scan_id in self.scans

    def _known(self, digest: str) -> Scan | None:
        """The scan that has an image with this fingerprint as one of its channels."""
        for scan in self.scans.values():
            if digest in (scan.sha256, *(channel.sha256 for channel in scan.channels)):
                return scan
        return None

    def _insert(self, scan: Scan, image: NewImage, name: str) -> bool:
        """Add a scan under a free id (see `NewImage.give_name`), unless another process has added it.

        Returns:
            Whether the annotation is back that it had when it was removed.
        """
        kept: Path | None = None

        def insert(contents: Contents) -> Contents:
            nonlocal kept
            if self._known(scan.sha256) is not None:
                return contents
            named = replace(scan, id=image.give_name(Path(scan.source), self._taken_ids(), name))
            kept = put_back(self.root, named)
            return replace(contents, scans=(*contents.scans, named))

        self.change(insert)
        if kept is not None:
            discard(kept)
        return kept is not None

    def _taken_ids(self) -> Iterator[str]:
        """Ids and names of scans, and ids of annotations whose scan a killed process has removed."""
        for scan in self.scans.values():
            yield from (scan.id, scan.name)
        for path in (self.root / "annotations").glob("*"):
            yield path.name.partition(".")[0]

    def hold_out(self, scan_id: str, held_out: bool = True) -> None:
        """Exclude a scan from all training, or include it again."""
        self._change_scan(scan_id, lambda scan: replace(scan, held_out=held_out))

    def rename_scan(self, scan_id: str, name: str) -> None:
        """Call a scan by another name; its id, its files and everything that refers to them stay.

        Raises:
            UserError: "same-name" if another scan has it as name or id, and those of `check_scan_name`.
        """
        check_scan_name(name)

        def rename(scan: Scan) -> Scan:
            others = [other for other in self.scans.values() if other.id != scan_id]
            if any(name.lower() in (other.id.lower(), other.name.lower()) for other in others):
                raise UserError(
                    f"{self.root} already has a scan {name!r}; choose another name.", code="same-name"
                )
            return replace(scan, name="" if name == scan.id else name)

        self._change_scan(scan_id, rename)

    def drop_scan(self, scan_id: str) -> None:
        """Take a scan out of project.json; `removal.remove_scan` removes its files, too."""
        self.scan(scan_id)
        self.change(lambda now: replace(now, scans=tuple(scan for scan in now.scans if scan.id != scan_id)))

    def set_reference(self, scan_id: str, labels: Path | None) -> None:
        """Set the label file against which predictions of a scan are evaluated; None removes it."""
        reference = str(Path(labels).absolute()) if labels else ""
        self._change_scan(scan_id, lambda scan: replace(scan, reference=reference))

    def _change_scan(self, scan_id: str, change: Callable[[Scan], Scan]) -> None:
        def change_one(contents: Contents) -> Contents:
            changed = {**self.scans, scan_id: change(self.scan(scan_id))}
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
