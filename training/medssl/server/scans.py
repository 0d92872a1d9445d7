"""Which scan a client means, and the file that it downloads."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np

from medssl.core.errors import UserError
from medssl.core.files import make_folder, write_whole
from medssl.core.io.itk import nrrd_bytes
from medssl.core.io.nifti import nifti_bytes, opens_in_itk
from medssl.core.io.volume import is_series, suffix_of
from medssl.core.project.contents import Scan
from medssl.core.project.images import read_source
from medssl.core.project.project import Project
from medssl.server.state import Server
from medssl.server.uploads import FILES

DICOM_TAGS = ("StudyInstanceUID", "SeriesInstanceUID", "Modality")
"""What OHIF knows a scan by. Nothing else of a DICOM header is sent: the rest tells of the patient."""


def scan_of(server: Server, name: str) -> Scan:
    """The scan that a client means.

    Args:
        server: The server.
        name: Id or name of the scan, the name under which a client has sent it, or, as OHIF writes it, the
            SeriesInstanceUID of the DICOM series that it was read from.

    Raises:
        UserError: "no-scan".
    """
    server.project.refresh()
    for known in (name, server.uploaded.get(name)):
        with suppress(UserError):
            if known:
                return server.project.scan_named(known)
    for scan in server.project.scans.values():
        if name and dicom_uids(scan).get("SeriesInstanceUID") == name:
            return scan
    raise UserError(f"The project has no scan {name[:80]!r}.", code="no-scan")


def dicom_uids(scan: Scan) -> dict[str, str]:
    """`DICOM_TAGS` of the series that a scan was read from; empty for other scans."""
    return dict(_uids(scan.source)) if is_series(Path(scan.source)) else {}


@lru_cache(4096)
def _uids(source: str) -> tuple[tuple[str, str], ...]:
    import pydicom

    path = Path(source)
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(DICOM_TAGS))
        except Exception:  # no DICOM file, or one that is damaged or gone
            continue
        return tuple((tag, str(header[tag].value)) for tag in DICOM_TAGS if tag in header)
    return ()


def image_file(server: Server, scan: Scan) -> Path:
    """The file of a scan that a client downloads, on the scan's own grid.

    It is the file from which the scan was added, if 3D Slicer reads it. For others, such as a DICOM series,
    one is written, once as long as the server runs; where the source has changed or is gone, from the
    project's image, as in the viewer.

    Raises:
        UserError: "unreadable" if there is neither, BUSY, "disk-full".
    """
    source, opens = Path(scan.source), opens_in_itk(scan.geometry)
    if source.is_file() and suffix_of(source) in FILES and scan.volume is None and opens:
        return source
    folder = make_folder(server.scratch / "images")
    path = folder / f"{scan.id}-{scan.sha256[:16]}{'.nii.gz' if opens else '.nrrd'}"
    if not path.exists():
        server.with_volumes(lambda: _write_image(path, server.project, scan))
    return path


def _write_image(path: Path, project: Project, scan: Scan) -> None:
    """Write a scan as float32, unless another request has."""
    if path.exists():
        return
    try:
        array = read_source(scan).array
    except UserError:
        array = np.asarray(project.image(scan.id), np.float32)
    array = scan.geometry.to_source(array)
    is_nrrd = path.suffix == ".nrrd"
    content = nrrd_bytes(array, scan.geometry) if is_nrrd else nifti_bytes(array, scan.geometry, True)
    write_whole(path, lambda file: file.write(content))
