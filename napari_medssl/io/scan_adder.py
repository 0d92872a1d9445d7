"""Adds scans to the open project: from files, or from layers that show them already."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medssl.core.errors import UserError
from medssl.core.io.find import ScanFile, SearchResult, find_scans
from medssl.core.io.geometry import SEVERAL_VOLUMES
from medssl.core.io.masks import MASK
from medssl.core.project.adding import add_scan_file
from medssl.core.project.modality import UNSURE, settle_modalities
from medssl.core.project.project import Project, Scan
from napari.layers import Image
from psygnal import Signal

from napari_medssl import layer_units, layers
from napari_medssl.error_handling import catch_errors
from napari_medssl.io import open_layers
from napari_medssl.io.scan_loader import LoadedScan, read
from napari_medssl.latest_only_worker import LatestOnlyWorker
from napari_medssl.model.session import Session
from napari_medssl.workspace import Workspace

FROM_LAYERS = "from layers"
"""Folder in the project for scans that had no file."""


@dataclass(frozen=True)
class Source:
    """A scan to add: a file, or a layer, which may have a file."""

    file: ScanFile | None
    layer: Image | None = None


@dataclass(frozen=True)
class Added:
    """A source, the scan added from it or the error, and its voxels if they are shown next."""

    source: Source
    scan: Scan | UserError
    loaded: LoadedScan | None = None
    note: str = ""
    """What was assumed about a layer."""


class ScanAdder:
    """Finds and adds scans in a thread, one after the other, and shows the first new one."""

    changed = Signal()
    """`progress` or `busy` has changed."""
    taken_over = Signal()
    """A scan that was open already has been added: it can be painted on."""
    several_volumes = Signal(object)
    """4D files, of which volumes have to be chosen (`channel_files.choose_volumes`): {source: refusal}."""

    def __init__(self, session: Session, workspace: Workspace) -> None:
        self._session, self._workspace = session, workspace
        self._worker = LatestOnlyWorker(session)
        self.progress = ""
        """What is being done; empty when nothing is."""
        self._shown: str | None = None
        self._remarks: list[str] = []
        self._left_out: tuple[str, ...] = ()
        self._of_several_volumes: dict[Source, UserError] = {}

    @property
    def busy(self) -> bool:
        """Whether scans are being searched or added."""
        return self._worker.busy

    def find(self, paths: Sequence[Path], then: Callable[[list[Source]], object]) -> None:
        """Search files and folders for scans.

        Args:
            paths: Files and folders.
            then: Called with what was found, unless there is no scan.
        """
        results: list[SearchResult] = []

        def search() -> Iterator[SearchResult]:
            yield find_scans(paths)

        def finish() -> None:
            self._set_progress("")
            for result in results:
                self._left_out = tuple(result.left_out)
                then([Source(file) for file in result.scans])

        self._worker.submit(search, results.append, finish)
        self._set_progress("Searching for scans…")

    def add(self, sources: Sequence[Source], otherwise: str | None = None) -> None:
        """Add scans to the open project.

        Args:
            sources: The scans.
            otherwise: Scan to show if none can be added.
        """
        project = self._session.need_project()
        self._shown, self._remarks, self._of_several_volumes = None, [], {}
        self._worker.submit(
            lambda: _add_all(project, sources), self._on_added, lambda: self._on_all_added(otherwise)
        )
        self._set_progress(f"Reading {count(len(sources), 'scan')}…")

    def _on_added(self, added: Added) -> None:
        scan, layer = added.scan, added.source.layer
        if isinstance(scan, UserError):
            if scan.code == SEVERAL_VOLUMES and added.source.file is not None:
                self._of_several_volumes[added.source] = scan  # an answer may make it untrue
            else:
                self._session.notify("warning" if scan.code == MASK else "error", str(scan))
            return
        if added.note:
            self._session.notify("warning", added.note)
        name = Path(scan.source).name
        self._set_progress(f"Added {name}.")
        self._remarks += [f"{name}: {note}" for note in scan.notes]
        is_first = self._shown is None
        if layer is not None:
            self._workspace.scan_layers.take_over(layer, scan, is_first)
        if is_first:
            self._show(scan, added.loaded, from_layer=layer is not None)
        self._session.scans_changed.emit()

    def _show(self, scan: Scan, loaded: LoadedScan | None, from_layer: bool) -> None:
        self._shown = scan.id
        loader = self._workspace.scan_loader
        if loaded is not None:
            loader.cache(self._session.need_project(), scan, loaded)
        then = self.taken_over.emit if from_layer else None
        catch_errors(self._session, lambda: loader.open(scan.id, then))

    def _on_all_added(self, otherwise: str | None) -> None:
        self._set_progress("")
        self._session.scans_changed.emit()
        if self._left_out:
            self._session.notify("warning", f"Left out: {'; '.join(self._left_out)}.")
            self._left_out = ()
        self._show_remarks()
        if self._shown is None and otherwise is not None:
            self._workspace.scan_loader.open(otherwise)
        if self._of_several_volumes:
            self.several_volumes.emit(self._of_several_volumes)

    def _show_remarks(self) -> None:
        """Say what was tolerated in the new files, and which scans have an uncertain modality."""
        if self._remarks:
            more = count(len(self._remarks) - 1, "more remark") + " on others in the table."
            self._session.notify("warning", self._remarks[0] + f" ({more})" * (len(self._remarks) > 1))
        scans = self._session.project.scans.values() if self._session.project else ()
        uncertain = [scan for scan in scans if scan.modality_source == UNSURE]
        if uncertain:
            first, more = uncertain[0], f" and {len(uncertain) - 1} more" * (len(uncertain) > 1)
            self._session.notify(
                "warning",
                f"{first.title}{more} may be CT or MR by the grey values and is taken as "
                f"{first.modality.upper()}; right-click in the table to change it.",
                [UNSURE],
            )

    def _set_progress(self, text: str) -> None:
        self.progress = text
        self.changed.emit()


def _add_all(project: Project, sources: Sequence[Source]) -> Iterator[Added]:
    """Runs in a thread: uses the project folder and what layers hold, neither session nor viewer."""
    former, is_first = set(project.scans), True
    for source in sources:
        refused: list[UserError] = []
        try:
            yield _add(project, source, is_first, refused.append)
            is_first = False
        except UserError as error:
            refused.append(error)
        yield from (Added(source, error) for error in refused)
    try:
        settle_modalities(project, set(project.scans) - former)
    except UserError as error:
        yield Added(sources[0], error)


def _add(project: Project, source: Source, is_first: bool, refuse: Callable[[UserError], object]) -> Added:
    """Add one scan with its channels.

    The voxels of the first scan are read for the screen, unless a layer of ours has them.
    """
    file, layer, note = source.file, source.layer, ""
    if layer is not None and file is None:
        file = open_layers.save(layer, project.make_folder(FROM_LAYERS))
        note = layer_units.assumption(layer_units.attributes_of(layer))
    assert file is not None
    scan = add_scan_file(project, file, refuse)
    if source.file is None and Path(scan.source) != file.path:
        file.path.unlink()  # the project has these voxels already
    is_shown = layer is not None and bool(layers.entry_of(layer))
    return Added(source, scan, read(project, scan) if is_first and not is_shown else None, note)


def count(number: int, noun: str) -> str:
    """A number of things: "1 scan", "2 scans"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
