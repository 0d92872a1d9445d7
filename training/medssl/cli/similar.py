"""Writes a similarity map as a volume or as a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from medssl.core.errors import UserError
from medssl.core.features.similarity import FeatureCache, open_features, query_at, similarity
from medssl.core.files import check_writable, write_whole
from medssl.core.io.geometry import Geometry
from medssl.core.io.nifti import nifti_bytes
from medssl.core.jobs import FeaturesJob, Job
from medssl.core.project.project import Project, Run

PICTURES = (".png",)
VOLUMES = (".nii", ".nii.gz")


def write_similarity(
    project: Project,
    scan_id: str,
    run: Run,
    voxel_zyx: tuple[int, int, int],
    out: Path,
    device: str,
    work: Callable[[Job], dict[str, Any]],
) -> None:
    """Write the similarity of a scan to one of its voxels; missing features are computed first.

    Args:
        project: project with the scan.
        scan_id: id of the scan.
        run: run whose features are compared.
        voxel_zyx: query voxel (z, y, x) in canonical order.
        out: output file; .nii and .nii.gz write a volume on the grid of the features, .png a picture.
        device: device that computes missing features.
        work: runs a job.

    Raises:
        UserError: "outside" if the voxel is not in the scan, "unsupported" for another file ending.
    """
    if not out.name.lower().endswith(PICTURES + VOLUMES):
        raise UserError(
            f"{out} has an unsupported ending; use .nii.gz for a volume, .png for a picture.",
            code="unsupported",
        )
    check_writable(out)
    cache = features_of(project, scan_id, run, device, work)
    values = similarity(cache, query_at(cache, voxel_zyx))
    if out.name.lower().endswith(PICTURES):
        from medssl.benchmarking import pictures

        scan = project.scans[scan_id]
        image = np.asarray(project.image(scan_id))
        scene = pictures.Similar(
            image, scan.geometry.spacing_mm, values, voxel_zyx, scan_id, cache.step_vox, scan.modality
        )
        pictures.similarity(out, scene)
    else:
        _write_volume(out, values, project.scans[scan_id].geometry.canonical_affine, cache)


def features_of(
    project: Project, scan_id: str, run: Run, device: str, work: Callable[[Job], dict[str, Any]]
) -> FeatureCache:
    """Open the features of a scan from a run, computing them first if they are not stored."""
    try:
        return open_features(project, scan_id, run.id)
    except UserError as error:
        if error.code != "no-features":
            raise
    work(FeaturesJob(project=str(project.root), device=device, weights=run.id, scans=(scan_id,)))
    return open_features(project, scan_id, run.id)


def _write_volume(
    path: Path, values_zyx: np.ndarray, canonical_affine: np.ndarray, cache: FeatureCache
) -> None:
    """Write NIfTI on the grid of the features; the affine aligns it with the scan."""
    cells_to_voxels = np.diag([*cache.step_vox, 1.0])
    cells_to_voxels[:3, 3] = (np.array(cache.step_vox) - 1) / 2  # centre of the first cell
    affine = (np.asarray(canonical_affine) @ cells_to_voxels)[:, [2, 1, 0, 3]]
    values = values_zyx.transpose(2, 1, 0).astype(np.float32)
    content = nifti_bytes(values, Geometry.of(affine, values.shape), path.name.lower().endswith(".gz"))
    write_whole(path, lambda file: file.write(content))
