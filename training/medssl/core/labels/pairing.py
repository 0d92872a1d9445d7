"""Pair label files with scans by their names.

The name of the whole path counts for more than that of the file: two patients may both have a ct.nii.gz. What
fits several scans, or several files that fit one, is left out and said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from medssl.core.errors import UserError
from medssl.core.io.dicom_labels import dicom_labels_in
from medssl.core.io.volume import ITK, NIFTI, READABLE, has_header_beside, is_series, suffix_of

LABEL_WORDS = {
    "segmentation", "segmentations", "seg", "dseg", "label", "labels", "labelmap", "mask", "masks", "gt",
    "groundtruth",
}  # fmt: skip
IMAGE_WORDS = {"image", "images", "img", "scan", "scans", "volume", "vol"}
"""Words in names that say what a file or folder holds, not whose it is."""
FIRST_CHANNEL = "0000"
"""Ending of nnU-Net's image files, which its label files lack."""

BY_FOLDER = 7
"""Rank of a label file that has nothing but its folder in common with its scan."""

Key = tuple[int, object]
"""How a label file may name a scan: a rank, of which the lowest is the most precise, and the name."""


@dataclass(frozen=True)
class Pairs:
    """Scans and their label files.

    Attributes:
        files: {scan id: label file, or folder with one mask for each structure}.
        ambiguous: {scan id: a sentence about the label files that cannot be assigned}.
        missing: Scans without a label file.
        unused: Label files without a scan.
    """

    files: dict[str, Path]
    ambiguous: dict[str, str]
    missing: tuple[str, ...]
    unused: tuple[Path, ...]


def pair_labels(
    sources: Mapping[str, Path],
    folder: Path,
    names: Mapping[str, str] | None = None,
    channels: Mapping[str, str] | None = None,
    images: Iterable[Path] = (),
) -> Pairs:
    """Pair the label files in a folder with scans.

    A label file is named like its scan, or like its folder and file, with or without words such as "_seg"
    and nnU-Net's "_0000"; or like the scan's id or name; or like the folder that holds nothing but the scan.
    Several files in a folder named like the scan's are masks of one structure each. A DICOM-SEG is paired by
    the series that it refers to.

    Args:
        sources: {scan id: file or DICOM folder of the scan}.
        folder: Folder of label files, which is searched recursively.
        names: {scan id: what a person has called the scan}, of scans that have such a name.
        channels: {scan id: name of its first channel}, with which the name of its file may begin or end.
        images: Further images of the scans, which are no label files either.

    Raises:
        UserError: "missing" if the folder does not exist or holds no label file.
    """
    files = label_files(folder, {Path(source).resolve() for source in (*sources.values(), *images)})
    index: dict[Key, set[str]] = {}
    for scan_id, source in sources.items():
        name_keys = _name_keys((names or {}).get(scan_id, ""))
        channel = (channels or {}).get(scan_id, "")
        for key in (*_scan_keys(scan_id, Path(source), channel, sources, files), *name_keys):
            index.setdefault(key, set()).add(scan_id)
    owned: dict[str, list[tuple[int, Path]]] = {}
    contested: dict[str, list[Path]] = {}
    unused = []
    for file in files:
        rank, scans = min(
            ((key[0], index[key]) for key in _label_keys(file, folder) if key in index),
            key=lambda candidate: candidate[0],
            default=(0, set()),
        )
        if not scans:
            unused.append(file)
        for scan_id in scans:
            if len(scans) == 1:
                owned.setdefault(scan_id, []).append((rank, file))
            else:
                contested.setdefault(scan_id, []).append(file)
    titles = {scan_id: (names or {}).get(scan_id, scan_id) for scan_id in sources}
    return _decide(sources, titles, owned, contested, unused)


def label_files(folder: Path, scans: set[Path] | frozenset[Path] = frozenset()) -> list[Path]:
    """Files in a folder and below that may hold labels, sorted; hidden ones and scans are left out.

    Raises:
        UserError: "missing" if the folder does not exist or has no such file.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the one that holds the label files.", code="missing")

    def may_hold_labels(path: Path) -> bool:
        if has_header_beside(path):
            return False
        return suffix_of(path) in (*NIFTI, *ITK) or dicom_labels_in(path) is not None

    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.resolve() not in scans
        and may_hold_labels(path)
    ]
    if not files:
        raise UserError(f"{folder} has no label files; give the folder that holds them.", code="missing")
    return files


def _decide(
    sources: Mapping[str, Path],
    titles: Mapping[str, str],
    owned: Mapping[str, list[tuple[int, Path]]],
    contested: Mapping[str, list[Path]],
    unused: list[Path],
) -> Pairs:
    files, ambiguous, missing = {}, {}, []
    for scan_id, source in sources.items():
        candidates = sorted(owned.get(scan_id, []))
        best = [path for rank, path in candidates if rank == candidates[0][0]]
        if len(best) == 1:
            files[scan_id] = best[0]
        elif best and candidates[0][0] == BY_FOLDER and len({path.parent for path in best}) == 1:
            files[scan_id] = best[0].parent
        elif best:
            ambiguous[scan_id] = (
                f"{titles[scan_id]} ({source}) has several label files, {' and '.join(map(str, best))}; "
                "leave one of them in the folder."
            )
        elif scan_id in contested:
            others = sorted(other for other in contested if set(contested[other]) & set(contested[scan_id]))
            file, names = contested[scan_id][0], " or ".join(titles[other] for other in others)
            ambiguous[scan_id] = (
                f"{file} may belong to {names}; name each label file by folder and file of its "
                f"scan, as in {sources[others[0]].parent.name}/{file.name}."
            )
        else:
            missing.append(scan_id)
    return Pairs(files, ambiguous, tuple(missing), tuple(unused))


def _scan_keys(
    scan_id: str, source: Path, channel: str, sources: Mapping[str, Path], files: list[Path]
) -> Iterator[Key]:
    """All names by which a label file may mean a scan."""
    if is_series(source):
        yield from ((0, uid) for uid in _series_of(source))
        source = source.parent if source.is_file() or suffix_of(source) == ".dcm" else source
    stem, folders = _stem(source), _folders(source.parent)
    words = _words(source)
    if len(words) > 1 and words[-1] in (FIRST_CHANNEL, channel):
        del words[-1]
    elif len(words) > 1 and words[0] == channel:
        del words[0]
    names = {tuple(words), _without(IMAGE_WORDS, words)}
    for depth in range(1, len(folders) + 1):
        yield 1, (*folders[-depth:], stem)
        yield from ((2, (*folders[-depth:], name)) for name in names)
    if _ids_are_used(stem, sources, files):
        yield 3, scan_id.casefold()
    yield 4, stem
    yield from ((5, name) for name in names if name)
    if folders:
        yield 6, tuple(_words(Path(folders[-1])))
        yield BY_FOLDER, folders[-1]


def _name_keys(name: str) -> Iterator[Key]:
    """How a label file may mean a scan by the name that a person has given it; none for an empty one."""
    if name:
        yield 3, name.casefold()
        yield 5, tuple(_words(Path(name)))


def _label_keys(file: Path, folder: Path) -> Iterator[Key]:
    """The same names of a label file."""
    if dicom_labels_in(file):
        from medssl.core.io.read_dicom_seg import referenced_series

        yield from ((0, uid) for uid in referenced_series(file))
    stem, words, folders = _stem(file), _words(file), _folders(file.relative_to(folder).parent)
    names = {_without(LABEL_WORDS, words), _without(LABEL_WORDS | IMAGE_WORDS, words)}
    if folders:
        yield 1, (*folders, stem)
        yield from ((2, (*folders, name)) for name in names)
        yield BY_FOLDER, folders[-1]
    yield 3, stem
    yield 4, stem
    yield from ((rank, name) for rank in (5, 6) for name in names if name)


def _folders(path: Path) -> tuple[str, ...]:
    """Names of folders in lower case, without those that only say what they hold."""
    return tuple(part for part in map(str.casefold, path.parts) if part not in LABEL_WORDS | IMAGE_WORDS)


def _ids_are_used(stem: str, sources: Mapping[str, Path], files: list[Path]) -> bool:
    """Whether a label file with the name of a scan's id means that scan.

    Of two scans named ct.nii.gz, one has the id "ct", but a single label file ct.nii.gz may be either's.
    """
    same = [scan_id.casefold() for scan_id, source in sources.items() if _stem(Path(source)) == stem]
    return len(same) == 1 or set(same) <= {_stem(file) for file in files}


def _stem(path: Path) -> str:
    """Name of a file without its suffixes, or of a folder, in lower case."""
    suffix = suffix_of(path)
    name = path.name[: -len(suffix)] if suffix in READABLE else path.name
    return name.casefold().removesuffix(".seg")


def _words(path: Path) -> list[str]:
    return [word for word in re.split(r"[\W_]+", _stem(path)) if word]


def _without(roles: set[str], words: list[str]) -> tuple[str, ...]:
    """Words of a name that say whose it is."""
    return tuple(word for word in words if word not in roles)


def _series_of(source: Path) -> set[str]:
    """Series Instance UIDs of the DICOM files of a scan; empty if they are not there."""
    import pydicom

    files = [source] if source.is_file() else sorted(source.iterdir()) if source.is_dir() else []
    for file in files:
        try:
            header = pydicom.dcmread(file, specific_tags=["SeriesInstanceUID"])
        except (OSError, pydicom.errors.InvalidDicomError):
            continue
        return {str(header.get("SeriesInstanceUID", ""))} - {""}
    return set()
