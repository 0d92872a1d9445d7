"""Finds the scans among files and folders, for the command line and the viewer alike.

What is no scan is left out and named: hidden folders, label files, earlier exports, folders that may not be
read, DICOM objects without a scan. Names come from the paths as they were given, never from the target of a
link, which may be a store of files that are named by their hash (DataLad, DVC, Hugging Face).
"""

from __future__ import annotations

import os
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medssl.core.errors import UserError
from medssl.core.io.left_out import LeftOut, fault_of
from medssl.core.io.masks import has_mask_name, is_mask_folder
from medssl.core.io.scan_file import ChannelFile, ScanFile, SearchResult
from medssl.core.io.scan_names import cases_and_channels, names_of_channels, tell_apart
from medssl.core.io.volume import DICOM, READABLE, has_header_beside, is_series, stem_of, suffix_of

if TYPE_CHECKING:
    from medssl.core.io.dicom_sort import Group

__all__ = ["ScanFile", "SearchResult", "find_scans"]


def find_scans(paths: Iterable[Path]) -> SearchResult:
    """List the scans in files and folders; folders are searched with their subfolders.

    A DICOM series is represented by its folder if it is the only scan there, otherwise by a file. Files that
    are given directly are not checked; several of one DICOM series count once. A path that does not exist is
    left out, unless there is no other.

    Raises:
        UserError: "missing" if no path exists, "no-scans" if there is no scan.

    Example:
        >>> for scan in find_scans([Path("imagesTr")]).scans:
        ...     project.add_scan(scan.path, name=scan.name)
    """
    inputs = [Path(path) for path in paths]
    if not inputs:
        raise UserError("Give at least one scan or folder.", code="no-scans")
    search = _Search()
    missing, folders = search.leave_out_missing(inputs), [path for path in inputs if path.is_dir()]
    search.add_files([path for path in inputs if path not in (*missing, *folders)])
    for folder in folders:
        if len(inputs) > 1 and is_mask_folder(folder.name):  # as in `medssl init PROJECT dataset/*`
            search.leave_out_masks(folder)
        else:
            search.add_folder(folder)
    result = replace(search.result(), missing=len(missing))
    if not result.scans:
        rest = f" (left out: {'; '.join(result.left_out)})" if result.left_out else ""
        raise UserError(
            f"No scan was found in {', '.join(map(str, inputs))}{rest}; "
            "give NIfTI, NRRD or MHA files or DICOM folders.",
            code="no-scans",
        )
    return result


@dataclass(frozen=True)
class _Candidate:
    """A scan under one of its paths."""

    path: Path
    files: frozenset[str]
    """Real paths."""
    name: tuple[str, ...]
    """Folders and name of the scan."""
    given: bool
    is_link: bool
    """Whether a link gives a file of another folder this name."""
    group: Group | None
    """Of DICOM files that were found in a folder."""
    channels: tuple[Path, ...] = ()
    """Of nnU-Net's files, the channels of this scan from the second on."""

    @property
    def precedence(self) -> tuple[bool, bool, Path]:
        """Of several paths to a scan, the one that sorts first is used."""
        return (not self.given, not self.is_link, self.path)


class _Search:
    """Collects scans and what is left out."""

    def __init__(self) -> None:
        self._candidates: list[_Candidate] = []
        self._left_out = LeftOut()
        self._searched: set[str] = set()
        """Real paths of folders."""

    def result(self) -> SearchResult:
        """Each scan once."""
        self._leave_out_parts()
        scans: dict[frozenset[str], _Candidate] = {}
        for candidate in sorted(self._candidates, key=lambda item: item.precedence):
            if scans.setdefault(candidate.files, candidate).path != candidate.path:
                self._left_out.add("second path to a scan", candidate.path)
        chosen = sorted(scans.values(), key=lambda item: item.path)
        names = tell_apart([item.name for item in chosen])
        scan_files = (_scan_file(item, name) for item, name in zip(chosen, names, strict=True))
        return SearchResult(tuple(scan_files), tuple(self._left_out.lines()))

    def _leave_out_parts(self) -> None:
        """Leave out series that are spread over folders: each part would be read as a scan of its own."""
        series: dict[str, list[_Candidate]] = defaultdict(list)
        for candidate in self._candidates:
            if candidate.group is not None:
                series[candidate.group.images[0].text("SeriesInstanceUID")].append(candidate)
        for uid, parts in series.items():
            folders = {part.group.files[0].parent for part in parts if part.group}
            if uid and len(folders) > 1:
                from medssl.core.io.dicom import are_parts

                if are_parts([part.group for part in parts if part.group]):
                    self._candidates = [item for item in self._candidates if item not in parts]
                    for part in parts:
                        self._left_out.add("part of a series that has to lie in one folder", part.path)

    def _add(
        self,
        path: Path,
        files: Iterable[Path],
        name: Path,
        given: bool = False,
        group: Group | None = None,
        channels: Iterable[Path] = (),
    ) -> None:
        real = frozenset(map(os.path.realpath, files))
        is_link = path.is_symlink() and Path(os.path.realpath(path)).parent != Path(
            os.path.realpath(path.parent)
        )
        parts = name.absolute().parts[1:]
        self._candidates.append(_Candidate(path, real, parts, given, is_link, group, tuple(channels)))

    # --- files that were given

    def leave_out_missing(self, paths: Sequence[Path]) -> list[Path]:
        """Name the paths that do not exist or cannot be opened, and return them.

        Raises:
            UserError: "missing" if there are no others.
        """
        wrong = {path: what for path in paths if (what := fault_of(path)) is not None}
        for path, (kind, fault) in wrong.items():
            if len(wrong) == len(set(paths)):
                raise UserError(f"{path} {fault}; check the path.", code="missing")
            self._left_out.add(kind, path)
        return list(wrong)

    def add_files(self, files: Iterable[Path]) -> None:
        """Add files; those of a DICOM series count once."""
        dicom: dict[Path, list[Path]] = defaultdict(list)
        for file in files:
            if is_series(file):
                dicom[file.parent].append(file)
            else:
                self._add(file, [file], file.with_name(stem_of(file)), given=True)
        for folder, members in dicom.items():
            self._add_given_dicom(folder, members)

    def _add_given_dicom(self, folder: Path, files: Sequence[Path]) -> None:
        from medssl.core.io.dicom_sort import sort_folder

        sorting = sort_folder(folder)
        groups = [(group, [file for file in files if file in group.files]) for group in sorting.groups]
        for group, members in groups:
            if members:
                self._add(members[0], group.files, _name(folder, group), given=True)
        rest = set(files).difference(*(members for _, members in groups))
        for file in sorted(rest):
            if file in sorting.left_out and len(rest) < len(files):  # all files of a folder were dropped
                self._left_out.add(sorting.left_out[file], file)
            else:
                self._add(file, [file], file.with_name(stem_of(file)), given=True)

    # --- folders

    def add_folder(self, root: Path) -> None:
        """Search a folder; links to folders come last, so that names come from the folders themselves."""
        folders, links = deque([root]), deque[Path]()
        while folders or links:
            folder = folders.popleft() if folders else links.popleft()
            real = os.path.realpath(folder)
            if real in self._searched:
                if folder.is_symlink():
                    self._left_out.add("link to a folder that is searched anyway", folder)
                continue
            self._searched.add(real)
            try:
                inside = self._add_scans_in(folder)
            except OSError:
                self._left_out.add("folder that cannot be read", folder)
                continue
            for path in inside:
                (links if path.is_symlink() else folders).append(path)

    def leave_out_masks(self, folder: Path) -> None:
        """Name the label files in a folder."""
        for parent, _, names in os.walk(folder):
            for name in sorted(names):
                if suffix_of(Path(name)) in READABLE and not name.startswith("."):
                    self._left_out.add("label file", Path(parent) / name)

    def _add_scans_in(self, folder: Path) -> list[Path]:
        """Add the scans in a folder; returns its subfolders.

        Raises:
            OSError: The folder cannot be read.
        """
        with os.scandir(folder) as iterator:
            entries = sorted(iterator, key=lambda entry: entry.name)
        subfolders, files, may_be_dicom = [], [], False
        for entry in entries:
            path, ending = folder / entry.name, suffix_of(Path(entry.name))
            if entry.name.startswith("."):
                self._leave_out_hidden(entry, path)
            elif entry.is_dir():
                if is_mask_folder(entry.name):
                    self.leave_out_masks(path)
                else:
                    subfolders.append(path)
            elif entry.is_symlink() and not path.exists():
                if ending in READABLE:
                    self._left_out.add("broken link", path)
            elif entry.is_file() and (ending in DICOM or ending not in READABLE):
                may_be_dicom = True
            elif entry.is_file():
                files.append(path)
        scans = self._scan_files(folder, files)
        if may_be_dicom:
            self._add_dicom_in(folder, alone=not scans)
        return subfolders

    def _leave_out_hidden(self, entry: os.DirEntry[str], path: Path) -> None:
        if entry.is_dir():
            self._left_out.add("hidden folder", path)
        elif suffix_of(path) in READABLE:
            self._left_out.add("hidden file", path)

    def _scan_files(self, folder: Path, files: Sequence[Path]) -> list[Path]:
        """Add the scans among files of known formats, and return them."""
        from medssl.core.export.provenance import read_record, record_path  # which needs this package

        scans = []
        for path in files:
            if record_path(path).exists() and read_record(path) is not None:
                self._left_out.add("earlier export", path)
            elif has_mask_name(path):
                self._left_out.add("label file", path)
            elif not has_header_beside(path):
                scans.append(path)
        cases = cases_and_channels(folder.absolute().name, [stem_of(path) for path in scans])
        channels: dict[str, list[Path]] = defaultdict(list)
        for path in scans:
            channels[cases.get(stem_of(path), (str(path), 0))[0]].append(path)
        for first, *further in channels.values():
            case = cases.get(stem_of(first), (stem_of(first), 0))[0]
            self._add(first, [first], first.with_name(case), channels=further)
        return scans

    def _add_dicom_in(self, folder: Path, alone: bool) -> None:
        """Add the scans among the DICOM files of a folder; `alone`: there are no others in it."""
        from medssl.core.io.dicom_sort import sort_folder

        sorting = sort_folder(folder)
        for path, kind in sorting.left_out.items():
            self._left_out.add(kind, path)
        for path in sorting.damaged[:1]:  # reading it says what is wrong
            self._add(path, [path], path.with_name(stem_of(path)))
        scans = [group for group in sorting.scans if len(group.files) == 1 or not sorting.damaged]
        for group in scans:
            whole = alone and len(scans) == 1 and not sorting.damaged
            path = folder if whole else group.files[0]
            self._add(path, group.files, _name(folder, group, whole), group=group)


def _scan_file(candidate: _Candidate, name: str) -> ScanFile:
    found = ScanFile(candidate.path, candidate.name[-1], name, candidate.given)
    if not candidate.channels:
        return found
    first, *further = names_of_channels(candidate.path.parent, 1 + len(candidate.channels))
    channels = map(ChannelFile, further, candidate.channels)
    return replace(found, channel=first, further=tuple(channels))


def _name(folder: Path, group: Group, whole: bool = False) -> Path:
    """Path of a DICOM scan by its name: that of its folder, with a label, or of its only file."""
    if len(group.files) == 1 and not whole:
        return folder / stem_of(group.files[0])
    folder = folder.absolute()
    return folder.with_name(f"{folder.name}-{group.label}" if group.label else folder.name)
