"""DICOM series from a DICOMweb store such as Orthanc, and DICOM objects back to it.

dicomweb-client speaks QIDO-RS, WADO-RS and STOW-RS; requests, below it, takes user and password from
~/.netrc. It is imported here only, with the extra "dicomweb".
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import UID

from medssl.core.errors import UserError
from medssl.core.files import cannot_read, cannot_write, make_folder
from medssl.core.io.dicom_headers import has_magic_number
from medssl.core.temporary_files import temporary_file

NO_STORE = "no-store"
"""Code of the error for a store that does not answer, or refuses."""
MAX_LISTED = 200
"""Series that are listed."""
TIMEOUT_S = 60.0
FIELDS = ("Modality", "SeriesDescription", "NumberOfSeriesRelatedInstances")


@dataclass(frozen=True)
class StoredSeries:
    """A series of a store; what is known of the patient is not asked for."""

    uid: str
    study: str
    modality: str
    description: str
    images: int


def list_series(url: str) -> list[StoredSeries]:
    """The first series of a store.

    Raises:
        UserError: NO_STORE, "no-dicomweb" without the extra.
    """
    with _store(url) as client:
        found = client.search_for_series(fields=list(FIELDS), limit=MAX_LISTED)
    return [_series(each) for each in found]


def fetch_series(
    url: str, uid: str, folder: Path, progress: Callable[[int], object] = lambda images: None
) -> Path:
    """Copy a series into a folder of its own, whole or not at all.

    Args:
        url: Address of the store, such as http://localhost:8042/dicom-web.
        uid: SeriesInstanceUID.
        folder: The folder named after the series is made in it; if that exists already, it stays as it is.
        progress: Called with the number of images that have come.

    Returns:
        The folder of the series.

    Raises:
        UserError: NO_STORE, "no-dicomweb", "missing" if the store has no such series, "bad-uid",
            "disk-full", "not-writable".
    """
    if not UID(uid).is_valid:
        raise UserError(
            f"{uid[:80]!r} is no SeriesInstanceUID; medssl fetch without one lists those of the store.",
            code="bad-uid",
        )
    target = make_folder(folder) / uid
    if target.exists():
        return target
    partial = temporary_file(target)
    try:
        with _store(url) as client:
            found = client.search_for_series(search_filters={"SeriesInstanceUID": uid}, limit=1)
            if not found:
                raise UserError(f"{url} has no series {uid}; check the number.", code="missing")
            images = client.iter_series(_series(found[0]).study, uid)
            _save(images, make_folder(partial), progress)
        try:
            partial.rename(target)
        except OSError as error:
            raise cannot_write(target, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def store_files(url: str, files: list[Path], progress: Callable[[Path], object] = lambda file: None) -> None:
    """Send DICOM files to a store, one after the other.

    Raises:
        UserError: NO_STORE, also if the store refuses a file, which is named; "no-dicomweb"; "not-dicom",
            "missing", "not-readable" before anything is sent.
    """
    for file in files:
        _check_dicom(file)
    with _store(url) as client:
        for file in files:
            result = client.store_instances([pydicom.dcmread(file)])
            for failure in result.get("FailedSOPSequence", ()):
                reason = failure.get("FailureReason", "unknown")
                raise UserError(f"{url} has refused {file} (reason {reason}); see its log.", code=NO_STORE)
            progress(file)


def _check_dicom(file: Path) -> None:
    try:
        is_dicom = has_magic_number(file)
    except OSError as error:
        raise cannot_read(file, error) from error
    if not is_dicom:
        raise UserError(
            f"{file} is no DICOM file; choose others, or export with --format dcm.", code="not-dicom"
        )


def _save(images: Iterator[pydicom.Dataset], folder: Path, progress: Callable[[int], object]) -> None:
    for number, image in enumerate(images, 1):
        path = folder / f"{number:05d}.dcm"
        try:
            pydicom.dcmwrite(path, image, enforce_file_format=True)
        except OSError as error:
            raise cannot_write(path, error) from error
        progress(number)


def _series(found: dict[str, Any]) -> StoredSeries:
    values = pydicom.Dataset.from_json(found)
    return StoredSeries(
        str(values.get("SeriesInstanceUID", "")),
        str(values.get("StudyInstanceUID", "")),
        str(values.get("Modality", "")),
        str(values.get("SeriesDescription", "")),
        int(values.get("NumberOfSeriesRelatedInstances") or 0),
    )


@contextmanager
def _store(url: str) -> Iterator[Any]:
    """A client of a store, whose errors are sentences."""
    try:
        import requests
        from dicomweb_client import DICOMwebClient
    except ModuleNotFoundError as error:
        raise UserError(
            'DICOMweb needs one more package; install it: pip install "napari-medssl[dicomweb]".',
            code="no-dicomweb",
        ) from error
    try:
        client = DICOMwebClient(url, timeout=TIMEOUT_S)
        client.set_http_retry_params(retry=False)  # which takes half a minute to say that nobody answers
        yield client
    except requests.HTTPError as error:
        status = "no status" if error.response is None else f"status {error.response.status_code}"
        advice = "user and password are read from ~/.netrc" if "401" in status else "check the address"
        raise UserError(f"{url} refuses ({status}); {advice}.", code=NO_STORE) from error
    except ValueError as error:  # an address that is none, an answer that is no JSON or DICOM
        raise UserError(
            f"{url} is no DICOMweb store ({str(error)[:80]}); check the address.", code=NO_STORE
        ) from error
    except requests.RequestException as error:
        raise UserError(
            f"{url} does not answer ({type(error).__name__}); check the address, and that the store runs.",
            code=NO_STORE,
        ) from error
