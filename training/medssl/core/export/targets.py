"""Which segmentations can be written where, known before anything is computed for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from medssl.core.errors import UserError
from medssl.core.export.files import DICOM_ENDINGS, file_name, need_dicom, need_series
from medssl.core.export.provenance import check_target
from medssl.core.files import check_writable
from medssl.core.io.volume import is_series
from medssl.core.project.project import Project


class Refuse(Protocol):
    """Called with an error, and the ids of the scans that it is about; it may raise the error."""

    def __call__(self, error: UserError, *scan_ids: str) -> object: ...


def usable_targets(
    project: Project, scan_ids: Sequence[str], folder: Path, ending: str, overwrite: bool, refuse: Refuse
) -> dict[str, Path]:
    """The file of each scan's segmentation, without the scans that are refused.

    Args:
        project: The project.
        scan_ids: Ids of the scans.
        folder: Where the files are to be written; it is created if any of them can be.
        ending: Suffix of the files, as `check_ending` gives it.
        overwrite: Replace files that are not earlier exports.
        refuse: Called for scans whose file cannot be written.

    Raises:
        UserError: "disk-full", "not-writable", and what `refuse` raises.
    """
    scans = [project.scans[scan_id] for scan_id in scan_ids]
    is_dicom = ending in DICOM_ENDINGS
    if is_dicom and (others := [scan.id for scan in scans if not is_series(Path(scan.source))]):
        try:
            need_dicom(*scans)
        except UserError as error:
            refuse(error, *others)
        scans = [scan for scan in scans if scan.id not in others]
    targets: dict[str, Path] = {}
    for scan in scans:
        path = folder / file_name(scan, ending)
        try:
            if is_dicom:
                need_series(scan)
            check_target(path, overwrite, scan.sha256)
        except UserError as error:
            refuse(error, scan.id)
            continue
        targets[scan.id] = path
    if targets:
        check_writable(next(iter(targets.values())))
    return targets
