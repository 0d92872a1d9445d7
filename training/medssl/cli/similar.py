"""A similarity map as a volume or as a picture."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from medssl.core.errors import UserError
from medssl.core.features.similarity import FeatureCache, open_features, query_at, similarity
from medssl.core.files import write_whole
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
    """Write how similar every place of the scan is to one voxel, computing features where there are none.

    Raises UserError ("outside", "unsupported").
    """
    if not out.name.lower().endswith(PICTURES + VOLUMES):
        raise UserError(
            f"{out} has an unknown ending; use .nii.gz for a volume, .png for a picture.", code="unsupported"
        )
    cache = features_of(project, scan_id, run, device, work)
    values = similarity(cache, query_at(cache, voxel_zyx))
    if out.name.lower().endswith(PICTURES):
        from medssl.benchmarking import pictures

        scan = project.scans[scan_id]
        image = np.asarray(project.image(scan_id))
        seen = pictures.Similar(
            image, scan.geometry.spacing_mm, values, voxel_zyx, scan_id, cache.step_vox, scan.modality
        )
        pictures.similarity(out, seen)
    else:
        _write_volume(out, values, project.scans[scan_id].geometry.canonical_affine, cache)


def features_of(
    project: Project, scan_id: str, run: Run, device: str, work: Callable[[Job], dict[str, Any]]
) -> FeatureCache:
    """The features of a scan under a run's weights, computed first if they are not there yet."""
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
    """NIfTI on the grid of the features; its affine lays it over the scan."""
    cells_to_voxels = np.diag([*cache.step_vox, 1.0])
    cells_to_voxels[:3, 3] = (np.array(cache.step_vox) - 1) / 2  # of the first cell's centre
    affine = (np.asarray(canonical_affine) @ cells_to_voxels)[:, [2, 1, 0, 3]]
    image = nibabel.Nifti1Image(values_zyx.transpose(2, 1, 0).astype(np.float32), affine)
    image.header.set_xyzt_units("mm")
    content = image.to_bytes()
    if path.name.lower().endswith(".gz"):
        content = gzip.compress(content, compresslevel=4, mtime=0)
    write_whole(path, lambda file: file.write(content))
