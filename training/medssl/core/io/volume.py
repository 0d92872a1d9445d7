"""Scans and label volumes, from files and back onto the source's own grid.

nibabel reads NIfTI and MGH (nifti.py), SimpleITK NRRD and MetaImage (itk.py) and, with pydicom, DICOM
(dicom.py). Whatever cannot be read right is refused in one sentence. These libraries take half a second to
import, so each is loaded when a file needs it: the viewer's dock opens without them, and who reads NIfTI
never waits for SimpleITK (nibabel itself loads pydicom).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path

import numpy as np

from medssl.core.errors import UserError
from medssl.core.files import write_whole
from medssl.core.io.geometry import Geometry

NIFTI = (".nii", ".nii.gz", ".hdr", ".img", ".mgz", ".mgh")
ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
READABLE = (*NIFTI, *ITK, ".dcm")
WRITABLE = (".nii", ".nii.gz", ".nrrd", ".mha")


@dataclass(frozen=True)
class Volume:
    """array: canonical (Z, Y, X); geometry: the file's grid; path: where it came from."""

    array: np.ndarray
    geometry: Geometry
    path: Path


def suffix_of(path: Path) -> str:
    """The file's ending in lower case, ".nii.gz" in one piece."""
    return ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()


def is_series(path: Path) -> bool:
    """Whether a path is read as DICOM: a folder, or a file of a series; also where it is gone by now."""
    if path.is_dir() or suffix_of(path) == ".dcm":
        return True
    if suffix_of(path) in READABLE:
        return False
    from medssl.core.io.dicom import is_dicom

    return is_dicom(path) or not path.exists()


def _one_that_fits(read: Callable[[Path], Volume]) -> Callable[[Path], Volume]:
    """Reading that says in a sentence when memory runs out."""

    @wraps(read)
    def reading(path: Path) -> Volume:
        try:
            return read(path)
        except MemoryError as error:
            raise UserError(
                f"{path} does not fit into this machine's memory; crop it or make its voxels larger.",
                code="too-large",
            ) from error

    return reading


@_one_that_fits
def read_scan(path: Path) -> Volume:
    """One 3D scan, float32, from a file, a folder with one DICOM series, or one file of a series.

    Raises UserError ("missing", "unsupported", "unreadable", "not-3d", "not-scalar", "not-finite",
    "constant", "bad-geometry", "too-large"; of DICOM "several-series", "uneven-slices", too) that names the
    file.
    """
    path = Path(path)
    array, geometry = _read(path)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is refused
        values = array.astype(np.float32)
    low, high = values.min(), values.max()
    if not np.isfinite(low + high):  # a not-a-number anywhere makes both not-a-number
        raise UserError(
            f"{path} holds voxels that are no numbers (NaN or infinite); replace them by the value of air.",
            code="not-finite",
        )
    if low == high:
        raise UserError(
            f"{path} has the same value everywhere; choose a scan that shows something.", code="constant"
        )
    return Volume(geometry.to_canonical(values), geometry, path)


@_one_that_fits
def read_labels(path: Path) -> Volume:
    """A label volume, uint8 (uint16 where ids exceed 255). Floats are taken where all are whole numbers.

    Raises UserError as `read_scan`, except that it may be empty, and "not-labels".
    """
    path = Path(path)
    array, geometry = _read(path)
    low, high = float(array.min()), float(array.max())
    whole = array.dtype.kind in "iub" or bool((array == np.round(array)).all())  # NaN equals nothing
    if not whole or not 0 <= low <= high <= 65535:
        raise UserError(
            f"{path} is no label volume (its values go from {low:g} to {high:g}); "
            "choose one with whole numbers from 0 on.",
            code="not-labels",
        )
    kind = np.uint8 if high <= 255 else np.uint16
    return Volume(geometry.to_canonical(array.astype(kind)), geometry, path)


def _read(path: Path) -> tuple[np.ndarray, Geometry]:
    """Array in the file's order (i, j, k) and its geometry."""
    if not path.exists():
        raise UserError(f"{path} does not exist; check the path.", code="missing")
    ending = suffix_of(path)
    try:
        # Each reader's library is loaded when a file needs it.
        if is_series(path):
            from medssl.core.io.dicom import read_series

            return read_series(path)
        if ending in NIFTI:
            from medssl.core.io.nifti import read_nifti

            return read_nifti(path)
        if ending in ITK:
            from medssl.core.io.itk import read_itk

            return read_itk(path)
    except UserError as error:
        if str(path) in str(error):
            raise
        raise UserError(f"{path} cannot be used: {error}", code=error.code) from error
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes make the libraries raise just about anything
        raise UserError(
            f"{path} cannot be read because it is damaged or not what its name says ({_reason(error)}); "
            "get the file anew.",
            code="unreadable",
        ) from error
    raise UserError(
        f"{path} is no kind of file that is read here; convert it to NIfTI "
        f"({', '.join(READABLE)} and DICOM folders are read).",
        code="unsupported",
    )


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].removeprefix("sitk::ERROR: ")[:120] if lines else type(error).__name__


def write_labels(path: Path, labels_zyx: np.ndarray, geometry: Geometry) -> None:
    """Write canonical labels onto the source's grid, whole or not at all: same shape, same affine.

    Ids above 255 make it uint16.

    Raises UserError ("unsupported", "wrong-shape", "not-labels", "disk-full", "not-writable").
    """
    path = Path(path)
    ending = suffix_of(path)
    if ending not in WRITABLE:
        raise UserError(
            f"{path} has no ending that is written here; use one of {', '.join(WRITABLE)}.",
            code="unsupported",
        )
    if labels_zyx.shape != geometry.shape_zyx:
        raise UserError(
            f"The labels for {path} have {labels_zyx.shape} voxels, but the scan has {geometry.shape_zyx}; "
            "choose the labels that belong to this scan.",
            code="wrong-shape",
        )
    array = geometry.to_source(_narrow(path, labels_zyx))
    if ending in NIFTI:
        from medssl.core.io.nifti import nifti_bytes

        content = nifti_bytes(array, geometry, compress=ending == ".nii.gz")
    else:
        from medssl.core.io.itk import mha_bytes, nrrd_bytes

        content = (nrrd_bytes if ending == ".nrrd" else mha_bytes)(array, geometry)
    write_whole(path, lambda file: file.write(content))


def _narrow(path: Path, labels: np.ndarray) -> np.ndarray:
    """The labels as uint8 or, where ids need it, uint16."""
    low, high = int(labels.min()), int(labels.max())
    if labels.dtype.kind not in "iub" or low < 0 or high > 65535:
        raise UserError(
            f"The labels for {path} are {labels.dtype} from {low} to {high}; "
            "labels are whole numbers from 0 to 65535.",
            code="not-labels",
        )
    return labels.astype(np.uint8 if high <= 255 else np.uint16, copy=False)


def find_scans(paths: Iterable[Path]) -> list[Path]:
    """Scans under files and folders, sorted.

    In a folder (and below it) each readable file is a scan; DICOM files count by series: alone in its
    folder the series is the folder, else its first file. Files that are given themselves are taken as
    they are, one for each DICOM series. Hidden files are left out.

    Raises UserError ("missing", "no-scans") where a path does not exist or nothing is found.
    """
    found: set[Path] = set()
    wanted = [Path(path) for path in paths]
    for path in wanted:
        if not path.exists():
            raise UserError(f"{path} does not exist; check the path.", code="missing")
        if path.is_dir():
            for folder in [path, *(each for each in path.rglob("*") if each.is_dir())]:
                found |= _scans_in(folder)
        else:
            found.add(path)
    if not found:
        raise UserError(
            f"No scan was found in {', '.join(map(str, wanted)) or 'nothing'}; "
            "give NIfTI, NRRD or MHA files or DICOM folders.",
            code="no-scans",
        )
    return sorted(_one_of_each_series(found))


def _scans_in(folder: Path) -> set[Path]:
    from medssl.core.io.dicom import series_in

    files = [each for each in folder.iterdir() if each.is_file() and not each.name.startswith(".")]
    # Of a pair the header stands for both.
    plain = {
        each
        for each in files
        if suffix_of(each) in (*NIFTI, *ITK)
        and not (suffix_of(each) == ".img" and each.with_suffix(".hdr").exists())
    }
    try:
        series = series_in(folder)
    except UserError:
        return plain | {folder}  # reading it will say which file is damaged
    alone = len(series) == 1 and not plain
    return plain | {folder if alone else each[0] for each in series}


def _one_of_each_series(paths: set[Path]) -> set[Path]:
    """Without further files of a DICOM series, as when somebody drops all its slices at once."""
    from medssl.core.io.dicom import series_in

    dicom = {path for path in paths if path.is_file() and suffix_of(path) not in (*NIFTI, *ITK)}
    kept = paths - dicom
    for folder in {path.parent for path in dicom}:
        here = {path for path in dicom if path.parent == folder}
        for series in series_in(folder):
            of_it = sorted(here.intersection(series))
            kept.update(of_it[:1])
            here.difference_update(of_it)
        kept |= here  # no DICOM at all, or no image: reading it will say so
    return kept
