"""Provenance of exported files: a JSON record of scan, annotation and weights beside each file.

A record also shows which files are this program's and may be replaced. It is written before its file, with
the hash that the file will have and that of the file it replaces: after a kill between the two, both are
recognised.
"""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np
from msgspec import Meta

from medssl import __version__
from medssl.core.environment import commit
from medssl.core.errors import UserError
from medssl.core.files import exists, sha256_of, write_whole
from medssl.core.io.geometry import AXIS_NAMES
from medssl.core.json_files import read_json, write_json
from medssl.core.labels.postprocess import Postprocessing
from medssl.core.project.annotation import Annotation
from medssl.core.project.cards import job_without_names
from medssl.core.project.contents import Scan, fingerprints
from medssl.core.project.project import Project, Run
from medssl.core.typed import convert

LIBRARIES = ("numpy", "torch", "monai", "nibabel", "SimpleITK", "pydicom", "highdicom")
_FINGERPRINT = re.compile("[0-9a-f]{64}")


class _File(TypedDict):
    name: str
    sha256: Annotated[str, Meta(pattern=f"^{_FINGERPRINT.pattern}$")]


class _Record(TypedDict):
    """Fields by which a record is recognised; those of former versions are among them."""

    file: _File
    versions: dict[str, str | None]


def record_path(exported: Path) -> Path:
    """Path of the record of an exported file, e.g. scan.nii.gz.json.

    The full name is kept because DICOM converters write "scan.json" beside "scan.nii.gz".
    """
    return exported.with_name(exported.name + ".json")


def read_record(exported: Path) -> dict[str, Any] | None:
    """The record of an exported file; None if there is none, or another program's file of that name."""
    path = record_path(exported)
    try:
        record = read_json(path)
        convert(_Record, record, str(path))
    except UserError:
        return None
    is_ours = record["file"]["name"] == exported.name and "medssl" in record["versions"]
    return record if is_ours else None


def check_target(path: Path, overwrite: bool = False, scan_sha256: str = "") -> None:
    """Require that writing a file and its record replaces nothing but earlier exports of the same scan.

    Args:
        path: The file to write.
        overwrite: Replace any file.
        scan_sha256: Fingerprint of the scan; "" for a file that is not of one scan.

    Raises:
        UserError: "exists".
    """
    if overwrite:
        return
    check_record(path)
    if not exists(path):
        return
    record = read_record(path)
    if record is None:
        raise _exists(path, "was not exported by this program")
    if sha256_of(path) not in (record["file"]["sha256"], record["file"].get("replaces")):
        raise _exists(path, "was changed after its export")
    of_scan = record.get("scan")
    former = of_scan.get("sha256") if isinstance(of_scan, dict) else None
    if scan_sha256 and former not in (None, scan_sha256):
        raise _exists(path, "belongs to another scan of that name")


def check_record(path: Path) -> None:
    """Require that the record of a file to be written replaces no file of another program.

    Raises:
        UserError: "exists".
    """
    if exists(record_path(path)) and read_record(path) is None:
        raise _exists(record_path(path), "is not a record of this program")


def _exists(path: Path, why: str) -> UserError:
    return UserError(
        f"{path} exists and {why}, so it is kept; move it or choose another folder (on the command line, "
        "--overwrite replaces it).",
        code="exists",
    )


def write_recorded(path: Path, content: bytes, fields: Mapping[str, Any]) -> None:
    """Write a file, and before it its record, each atomically.

    Args:
        content: Content of the file.
        fields: JSON values for the record, besides file, date and versions.

    Raises:
        UserError: "disk-full", "not-writable".
    """
    file: dict[str, Any] = {"name": path.name, "sha256": hashlib.sha256(content).hexdigest()}
    if path.exists():
        file["replaces"] = sha256_of(path)
    write_json(
        record_path(path),
        {
            "file": file,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            **fields,
            "versions": {
                "medssl": __version__,
                "commit": commit(),
                "python": platform.python_version(),
                **{name: version(name) for name in LIBRARIES},
            },
        },
    )
    write_whole(path, lambda stream: stream.write(content))


def origin(
    project: Project,
    scan: Scan,
    annotation: Annotation | None,
    run: Run | None,
    postprocessing: Postprocessing | None,
    with_names: bool,
) -> dict[str, Any]:
    """What a segmentation was made from, as fields of its record.

    Args:
        with_names: Also give paths, and the names of scans, which may be those of patients.
    """
    names = {"id": scan.id, "source": scan.source} if with_names else {}
    return {
        "scan": {
            **names,
            "sha256": scan.sha256,
            "shape_zyx": list(scan.geometry.shape_zyx),
            "spacing_mm": list(scan.geometry.spacing_mm),
        },
        "annotation": _annotation(annotation),
        "prediction": None if run is None else _prediction(project, run, postprocessing, with_names),
    }


def _annotation(annotation: Annotation | None) -> dict[str, Any] | None:
    """Complete slices per axis, and the number of annotated voxels inside or outside of them."""
    if annotation is None:
        return None
    complete = {
        name: sorted(index for axis, index in annotation.complete if axis == number)
        for number, name in enumerate(AXIS_NAMES)
    }
    return {"complete_slices": complete, "painted_voxels": int(np.count_nonzero(annotation.labels))}


def _prediction(
    project: Project, run: Run, postprocessing: Postprocessing | None, with_names: bool
) -> dict[str, Any]:
    """The weights, their training data, and the postprocessing of the prediction."""
    card, known = run.card, fingerprints(project.scans)
    trained_on = [known.get(name, name) for name in card.get("scans", [])]  # former cards have ids
    if with_names:
        ids = {fingerprint: scan_id for scan_id, fingerprint in known.items()}
        trained_on = [ids.get(name, name) for name in trained_on]
    else:
        trained_on = [name for name in trained_on if _FINGERPRINT.fullmatch(name)]
    return {
        "run": run.id,
        "weights_sha256": run.weights_sha256 or None,
        "step": card.get("step"),
        "started_from": card.get("weights"),
        "trained_on": trained_on,
        "cleaned_up": asdict(postprocessing) if postprocessing else None,
        "job": run.job if with_names else job_without_names(run.job),
    }
