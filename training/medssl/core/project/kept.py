"""What people annotated in a scan that was removed: it stays in the project, and comes back with the scan.

removed/<id>/<id>.*      the files that the scan had in annotations/
removed/<id>/scan.json   its id and fingerprint; written last, so it marks the folder as complete
"""

from __future__ import annotations

import shutil
from itertools import chain, count
from pathlib import Path

from medssl.core.errors import UserError
from medssl.core.files import exists, make_folder, read_bytes, write_whole
from medssl.core.json_files import read_json, write_json
from medssl.core.project.contents import Scan

FOLDER, RECORD = "removed", "scan.json"


def annotation_files(folder: Path, scan_id: str) -> list[Path]:
    """Files of a scan's annotation in a folder: labels, journal of strokes, damaged journals."""
    return sorted(folder.glob(f"{scan_id}.*"))  # ids have no dots, and nothing that means more in a pattern


def keep(root: Path, scan: Scan) -> Path | None:
    """Copy the annotation of a scan that is about to be removed.

    Args:
        root: The project folder.
        scan: The scan.

    Returns:
        Folder with the copy; None if nobody has annotated anything.

    Raises:
        UserError: "not-readable", "disk-full", "not-writable".
    """
    files = annotation_files(root / "annotations", scan.id)
    if not files:
        return None
    names = chain([scan.id], (f"{scan.id}-{number}" for number in count(2)))
    folder = next(path for path in (root / FOLDER / name for name in names) if not exists(path))
    make_folder(folder, below=root)
    for path in files:
        _copy(path, folder / path.name)
    write_json(folder / RECORD, {"id": scan.id, "sha256": scan.sha256})
    return folder


def put_back(root: Path, scan: Scan) -> Path | None:
    """Give a scan that is being added the annotation that it had when it was removed. Needs the change lock.

    Args:
        root: The project folder.
        scan: The scan, under its new id, which no file in annotations/ has.

    Returns:
        Folder in which the annotation was kept, for `discard`; None if there is none.

    Raises:
        UserError: "not-readable", "disk-full", "not-writable".
    """
    kept = _kept_of(root, scan.sha256)
    if kept is None:
        return None
    folder, former_id = kept
    make_folder(root / "annotations", below=root)
    for path in annotation_files(folder, former_id):
        _copy(path, root / "annotations" / f"{scan.id}{path.name.removeprefix(former_id)}")
    return folder


def discard(folder: Path) -> None:
    """Delete a folder of `keep` whose annotation the project has again."""
    shutil.rmtree(folder, ignore_errors=True)  # what stays does no harm


def kept_annotations(root: Path) -> list[Path]:
    """Annotation files of removed scans."""
    return sorted((root / FOLDER).glob("*/*.npz"))


def _kept_of(root: Path, sha256: str) -> tuple[Path, str] | None:
    """Folder and former id of the removed scan with a fingerprint; the one that was removed last."""
    records = sorted((root / FOLDER).glob(f"*/{RECORD}"), key=lambda path: path.stat().st_mtime_ns)
    for path in reversed(records):
        try:
            fields = read_json(path)
            if fields["sha256"] == sha256:
                return path.parent, str(fields["id"])
        except (UserError, KeyError, TypeError):
            continue  # damaged: its annotation stays where it is
    return None


def _copy(source: Path, target: Path) -> None:
    content = read_bytes(source)
    write_whole(target, lambda file: file.write(content))
