"""Surfaces as STL files, in mm, in the patient's LPS coordinates (left, posterior, superior).

DICOM has these coordinates, and 3D Slicer takes STL files to be in them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medssl.core.export.files import segmentation_of
from medssl.core.export.provenance import check_target, origin, write_recorded
from medssl.core.export.surface import surfaces_of
from medssl.core.files import make_folder
from medssl.core.labels.postprocess import Postprocessing
from medssl.core.project.contents import Scan
from medssl.core.project.project import Project

HEADER = b"medssl surface in mm, SPACE=LPS"
"""3D Slicer reads the coordinates from it. It must not begin with "solid", as the text form does."""


def export_surfaces(
    project: Project,
    scan_id: str,
    run_id: str | None,
    folder: Path,
    postprocessing: Postprocessing | None = None,
    *,
    overwrite: bool = False,
    with_names: bool = False,
) -> list[Path]:
    """Write the surface of each class of a scan's segmentation as STL, with a provenance record beside it.

    Args:
        project: The project.
        scan_id: Id of the scan.
        run_id: Fine-tuning run whose prediction fills the voxels without annotation; None for none.
        folder: Where they are written, as `SCAN_ID_CLASS.stl`.
        postprocessing: Applied to the prediction, never to the annotation.
        overwrite: Replace files that are not earlier exports of this scan.
        with_names: Write paths and names of scans into the records.

    Returns:
        The files: one for each class that occurs.

    Raises:
        UserError: "nothing-yet", "outdated", "exists", "disk-full", "not-writable".
    """
    scan, names = project.scans[scan_id], {item.id: item.name for item in project.classes}
    labels, annotation, run = segmentation_of(project, scan_id, run_id, postprocessing)
    made_from = origin(project, scan, annotation, run, postprocessing, with_names)
    written = []
    for surface in surfaces_of(labels, scan.geometry):
        name = names.get(surface.class_id, f"Class {surface.class_id}")
        path = make_folder(folder) / surface_file(scan, surface.class_id, name)
        check_target(path, overwrite, scan.sha256)
        content = stl_bytes(surface.patient_mm(scan.geometry), surface.faces)
        write_recorded(
            path,
            content,
            {**made_from, "volumes": [{"id": surface.class_id, "name": name, "ml": round(surface.ml, 6)}]},
        )
        written.append(path)
    return written


def surface_file(scan: Scan, class_id: int, class_name: str) -> str:
    """File name of the surface of a class, with its id, as names may differ in special characters alone."""
    plain = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in class_name)
    return f"{scan.title}_{class_id}_{plain}.stl"


def stl_bytes(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    """A surface as a binary STL file.

    Args:
        vertices: Coordinates in mm, float (N, 3).
        faces: Vertices of each triangle, int (M, 3).
    """
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    triangles = np.zeros(len(faces), [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("unused", "<u2")])
    triangles["normal"] = normals / np.where(lengths > 0, lengths, 1)
    triangles["corners"] = corners
    return HEADER.ljust(80) + np.uint32(len(faces)).astype("<u4").tobytes() + triangles.tobytes()
