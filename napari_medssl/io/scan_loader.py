"""Scans come from their files to the screen: read in a thread, kept for the way back."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from medssl.core.errors import UserError
from medssl.core.io.volume import Volume, read_scan
from medssl.core.project.project import Project, Scan
from psygnal import Signal
from superqt.utils import create_worker

from napari_medssl.error_handling import guarded, tell
from napari_medssl.model.session import Session

KEPT_BYTES = 512 * 2**20
"""Scans that were on the screen stay in memory up to this size, for whoever compares two of them."""

Read = tuple[Volume, str]
"""A scan, and a sentence where it is not what its file has."""


class Opening:
    """Shows a scan as soon as it is read; until then the one before stays on the screen, to paint on."""

    changed = Signal()
    """Another scan is being read, or none any more."""

    def __init__(self, session: Session, on_screen: Callable[[Scan], bool]) -> None:
        """on_screen: whether a layer shows a scan already, so that nothing has to be read."""
        self._session, self._on_screen = session, on_screen
        self.waiting: str | None = None
        """The scan that is being read."""
        self._then: Callable[[], object] | None = None
        self._kept: OrderedDict[tuple[str, str], Volume] = OrderedDict()
        session.project_changed.connect(self._forget)

    def open(self, scan_id: str, then: Callable[[], object] | None = None) -> None:
        """Select a scan once it is read, then call `then`; the last one that was asked for wins."""
        project = self._session.need_project()
        scan = project.scans[scan_id]
        if scan_id == self._session.scan and self._on_screen(scan):
            self._wait_for(None)
            if then is not None:
                guarded(self._session, then)
        elif self._on_screen(scan) or _key(project, scan) in self._kept:
            self._wait_for(None)
            self._select(scan_id, then)
        else:
            self._then = then
            self._wait_for(scan_id)
            create_worker(_read, project, scan, _connect={"returned": self._on_read})

    def volume(self, scan: Scan) -> Volume:
        """The scan as its file has it; where that file is gone or another one, the project's own copy."""
        project = self._session.need_project()
        kept = self._kept.get(_key(project, scan))
        if kept is not None:
            self._kept.move_to_end(_key(project, scan))
            return kept
        return self.keep(project, scan, read(project, scan))

    def _on_read(self, result: tuple[Project, Scan, Read | Exception]) -> None:
        project, scan, found = result
        if self._session.closed or self._session.project is not project:
            return
        if isinstance(found, Exception):
            wanted = self.waiting == scan.id
            self._wait_for(None if wanted else self.waiting)
            tell(self._session, found)
            return
        self.keep(project, scan, found)
        if self.waiting == scan.id:
            self._wait_for(None)
            self._select(scan.id, self._then)

    def _select(self, scan_id: str, then: Callable[[], object] | None) -> None:
        def select() -> None:
            self._session.select(scan_id)
            if then is not None:
                then()

        guarded(self._session, select)

    def keep(self, project: Project, scan: Scan, found: Read) -> Volume:
        """Take in a scan that somebody has read already."""
        volume, warning = found
        if warning:
            self._session.tell("warning", warning)
        self._kept[_key(project, scan)] = volume
        while len(self._kept) > 1 and sum(each.array.nbytes for each in self._kept.values()) > KEPT_BYTES:
            self._kept.popitem(last=False)
        return volume

    def _wait_for(self, scan_id: str | None) -> None:
        self.waiting = scan_id
        self.changed.emit()

    def _forget(self) -> None:
        self._kept.clear()
        self._wait_for(None)


def read(project: Project, scan: Scan) -> Read:
    """A scan from its file, or, where that is gone or changed, from the project's own copy.

    Raises UserError where that is missing, too.
    """
    source = Path(scan.source)
    try:
        volume = read_scan(source)
        if volume.geometry == scan.geometry:
            return volume, ""
    except UserError:
        pass  # gone, or no scan any more
    reason = "has changed since it was added" if source.exists() else "is not where it was"
    said = f"{source} {reason}; the project's own copy is shown, and all steps work on it."
    return Volume(project.image(scan.id), scan.geometry, source), said


def _read(project: Project, scan: Scan) -> tuple[Project, Scan, Read | Exception]:
    """In a thread: errors are told in the viewer's own."""
    try:
        return project, scan, read(project, scan)
    except Exception as error:
        return project, scan, error


def _key(project: Project, scan: Scan) -> tuple[str, str]:
    return str(project.root), scan.id
