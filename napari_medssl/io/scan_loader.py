"""Reads scans in a thread and caches the most recent ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from medssl.core.errors import UserError
from medssl.core.io.volume import Volume
from medssl.core.project.images import read_source
from medssl.core.project.project import Project, Scan
from psygnal import Signal
from superqt.utils import create_worker

from napari_medssl.error_handling import catch_errors, report_error
from napari_medssl.model.session import Session

CACHE_BYTES = 512 * 2**20
"""Size of the cache of recently shown scans."""

LoadedScan = tuple[Volume, str]
"""A scan, and a warning if it is not read from its file."""


class ScanLoader:
    """Shows a scan once it is read; until then the previous one stays on the screen and can be painted on."""

    changed = Signal()
    """`pending` has changed."""

    def __init__(self, session: Session, on_screen: Callable[[Scan], bool]) -> None:
        """Args:
        session: The state of the viewer.
        on_screen: Whether a layer already shows a scan, so that nothing has to be read.
        """
        self._session, self._on_screen = session, on_screen
        self.pending: str | None = None
        """Id of the scan that is being read."""
        self._then: Callable[[], object] | None = None
        self._cache: OrderedDict[tuple[str, str], Volume] = OrderedDict()
        session.project_changed.connect(self._clear)
        session.scan_removed.connect(self._forget)

    def open(self, scan_id: str, then: Callable[[], object] | None = None) -> None:
        """Select a scan once it is read. A newer call replaces it.

        Args:
            scan_id: Id of the scan.
            then: Called after the scan was selected.

        Raises:
            UserError: "no-scan".
        """
        project = self._session.need_project()
        scan = project.scan(scan_id)
        self._session.messages.end(self)
        if scan_id == self._session.scan and self._on_screen(scan):
            self._set_pending(None)
            if then is not None:
                catch_errors(self._session, then)
        elif self._on_screen(scan) or _key(project, scan) in self._cache:
            self._set_pending(None)
            self._select(scan_id, then)
        else:
            self._then = then
            self._set_pending(scan_id)
            create_worker(_read, project, scan, _connect={"returned": self._on_read})

    def volume(self, scan: Scan) -> Volume:
        """A scan from its file, or from the project's copy if the file is missing or has changed."""
        project = self._session.need_project()
        cached = self._cache.get(_key(project, scan))
        if cached is not None:
            self._cache.move_to_end(_key(project, scan))
            return cached
        return self.cache(project, scan, read(project, scan))

    def _on_read(self, result: tuple[Project, Scan, LoadedScan | Exception]) -> None:
        project, scan, loaded = result
        if self._session.closed or self._session.project is not project:
            return
        if isinstance(loaded, Exception):
            was_pending = self.pending == scan.id
            self._set_pending(None if was_pending else self.pending)
            report_error(self._session, loaded, self)
            return
        self.cache(project, scan, loaded)
        if self.pending == scan.id:
            self._set_pending(None)
            self._select(scan.id, self._then)

    def _select(self, scan_id: str, then: Callable[[], object] | None) -> None:
        def select() -> None:
            self._session.select(scan_id)
            if then is not None:
                then()

        catch_errors(self._session, select)

    def cache(self, project: Project, scan: Scan, loaded: LoadedScan) -> Volume:
        """Cache a scan that has been read already, and show its warning."""
        volume, warning = loaded
        if warning:
            self._session.notify("warning", warning)
        self._cache[_key(project, scan)] = volume
        while (
            len(self._cache) > 1 and sum(volume.array.nbytes for volume in self._cache.values()) > CACHE_BYTES
        ):
            self._cache.popitem(last=False)
        return volume

    def _set_pending(self, scan_id: str | None) -> None:
        self.pending = scan_id
        self.changed.emit()

    def _forget(self, scan_id: str) -> None:
        self._cache.pop((str(self._session.need_project().root), scan_id), None)

    def _clear(self) -> None:
        self._cache.clear()
        self._set_pending(None)


def read(project: Project, scan: Scan) -> LoadedScan:
    """Read a scan from its file, or from the project's copy if the file is missing or has changed.

    Args:
        project: The project.
        scan: The scan, or a channel of it (`Scan.part`).

    Returns:
        The volume, and a warning (empty for none).

    Raises:
        UserError: The project's copy cannot be read either.
    """
    source = Path(scan.source)
    try:
        return read_source(scan), ""
    except UserError as error:
        warning = f"{source} was not found; the project's copy is used instead."
        if error.code != "missing":  # other voxels, or not a scan any more
            warning = (
                f"{source} has changed since it was added; the project's copy is used instead, so add the "
                "file again to work on its new content."
            )
    return Volume(project.image(scan.id, scan.channel), scan.geometry, source), warning


def _read(project: Project, scan: Scan) -> tuple[Project, Scan, LoadedScan | Exception]:
    """Runs in a thread; errors are reported in the viewer's."""
    try:
        return project, scan, read(project, scan)
    except Exception as error:
        return project, scan, error


def _key(project: Project, scan: Scan) -> tuple[str, str]:
    return str(project.root), scan.id
