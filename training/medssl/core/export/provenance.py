"""Provenance of exported files: a JSON record of scan, annotation and weights beside each file."""

from __future__ import annotations

import platform
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from medssl import __version__
from medssl.core.environment import commit
from medssl.core.files import sha256_of, write_json
from medssl.core.io.geometry import AXIS_NAMES
from medssl.core.labels.postprocess import Postprocessing
from medssl.core.project.annotation import Annotation
from medssl.core.project.contents import Scan
from medssl.core.project.project import Run

LIBRARIES = ("numpy", "torch", "monai", "nibabel", "SimpleITK", "pydicom", "highdicom")


def record_path(exported: Path) -> Path:
    """Path of the record of an exported file, e.g. scan.nii.gz.json.

    The full name is kept because DICOM converters write "scan.json" beside "scan.nii.gz".
    """
    return exported.with_name(exported.name + ".json")


def write_record(
    exported: Path,
    scan: Scan,
    annotation: Annotation | None,
    run: Run | None,
    postprocessing: Postprocessing | None,
    volumes: list[dict[str, Any]],
) -> None:
    """Write the record of a file that was just exported, atomically.

    The record holds the SHA-256 of the file, which shows whether the record belongs to it or to an earlier
    one.

    Args:
        volumes: JSON values per class: id, name, voxels, ml.
    """
    write_json(
        record_path(exported),
        {
            "file": {"name": exported.name, "sha256": sha256_of(exported)},
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "scan": {
                "id": scan.id,
                "name": Path(scan.source).name,
                "sha256": scan.sha256,
                "shape_zyx": list(scan.geometry.shape_zyx),
                "spacing_mm": list(scan.geometry.spacing_mm),
            },
            "annotation": _annotation(annotation),
            "prediction": None if run is None else _prediction(run, postprocessing),
            "volumes": volumes,
            "versions": {
                "medssl": __version__,
                "commit": commit(),
                "python": platform.python_version(),
                **{name: version(name) for name in LIBRARIES},
            },
        },
    )


def _annotation(annotation: Annotation | None) -> dict[str, Any] | None:
    """Complete slices per axis, and the number of annotated voxels inside or outside of them."""
    if annotation is None:
        return None
    complete = {
        name: sorted(index for axis, index in annotation.complete if axis == number)
        for number, name in enumerate(AXIS_NAMES)
    }
    return {"complete_slices": complete, "painted_voxels": int(np.count_nonzero(annotation.labels))}


def _prediction(run: Run, postprocessing: Postprocessing | None) -> dict[str, Any]:
    """The weights, their training data, and the postprocessing of the prediction."""
    card = run.card
    return {
        "run": run.id,
        "weights_sha256": run.weights_sha256 or None,
        "step": card.get("step"),
        "started_from": card.get("weights"),
        "trained_on": card.get("scans"),
        "cleaned_up": asdict(postprocessing) if postprocessing else None,
        "job": {name: value for name, value in run.job.items() if name != "project"},
    }
