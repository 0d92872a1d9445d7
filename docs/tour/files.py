"""The files that the tour opens: small, synthetic, made anew each time."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import scenes
import SimpleITK as sitk
from dicom_files import write_series
from medssl.core.io.geometry import Geometry
from medssl.core.phantom import make_phantom
from scenes import write_nifti

SHAPE_AND_SPACING_MM = (24, 56, 56), (12.0, 6.4, 6.4)
"""Shape in voxels and spacing in mm, both z, y, x."""
PIXDIM, FORM_CODES = 80, 252
"""Where a NIfTI header has its voxel sizes and the codes of its affines."""


@dataclass(frozen=True)
class Files:
    """Paths in the tour's folder.

    Attributes:
        first: A folder with two CTs, opened by napari itself.
        ct: A folder with two CTs.
        masks: A folder with one mask for each structure of the first of `ct`.
        labels: A file with the structures of the first of `ct`.
        odd: A CT with NaN outside of the body.
        bare: A file without a voxel size.
        formats: A CT each as NRRD, MetaImage and MGZ, and a file of a DICOM series.
        dicom: A folder with a DICOM series.
        patient: Two sequences, p1_t1.nii.gz and p1_t2.nii.gz.
        images: A folder of nnU-Net, with two cases of two sequences.
        volumes: A 4D file.
    """

    first: Path
    ct: Path
    masks: Path
    labels: Path
    odd: Path
    bare: Path
    formats: tuple[Path, ...]
    dicom: Path
    patient: tuple[Path, Path]
    images: Path
    volumes: Path


def write_files(folder: Path) -> Files:
    """Write all of them."""
    files = Files(
        *(folder / name for name in ("first", "ct", "masks", "labels.nii.gz", "odd.nii.gz", "bare.nii")),
        tuple(folder / "formats" / name for name in ("ann.nrrd", "ben.mha", "eve.mgz", "kim/000.dcm")),
        folder / "series",
        (folder / "patient" / "p1_t1.nii.gz", folder / "patient" / "p1_t2.nii.gz"),
        folder / "imagesTr",
        folder / "volumes.nii.gz",
    )
    for seed in range(2):
        scan, labels, geometry = make_phantom(seed, *SHAPE_AND_SPACING_MM)
        for place in (files.first, files.ct):
            write_nifti(place / f"person_{seed}.nii.gz", scan, geometry)
        if seed == 0:
            write_nifti(files.labels, labels, geometry)
            for number, name in ((1, "liver"), (5, "lungs")):
                write_nifti(files.masks / f"{name}.nii.gz", (labels == number).astype(np.uint8), geometry)
            _write_odd_ones(files, scan, geometry)
            write_series(files.dicom, scan.astype(np.int16) + 1024, pixel_spacing=SHAPE_AND_SPACING_MM[1][1:])
    _write_formats(files.formats)
    _write_sequences(files)
    return files


def _write_formats(paths: tuple[Path, ...]) -> None:
    """Each file has a CT of its own: the same voxels would be a copy of a scan of the project."""
    for seed, path in enumerate(paths, start=6):
        scan, _, geometry = make_phantom(seed, *SHAPE_AND_SPACING_MM)
        scan = scan.astype(np.int16)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".dcm":
            write_series(path.parent, scan + 1024, pixel_spacing=SHAPE_AND_SPACING_MM[1][1:])
        elif path.suffix == ".mgz":
            nibabel.save(nibabel.MGHImage(geometry.to_source(scan), geometry.matrix), path)
        else:
            image = sitk.GetImageFromArray(scan)
            image.SetSpacing(SHAPE_AND_SPACING_MM[1][::-1])
            sitk.WriteImage(image, str(path))


def _write_odd_ones(files: Files, scan: np.ndarray, geometry: Geometry) -> None:
    holes = scan.astype(np.float32)
    holes[holes < -900] = np.nan
    write_nifti(files.odd, holes, geometry)
    write_nifti(files.bare, scan, geometry)
    content = bytearray(files.bare.read_bytes())
    content[PIXDIM : PIXDIM + 12] = bytes(12)
    content[FORM_CODES : FORM_CODES + 4] = struct.pack("<hh", 0, 0)
    files.bare.write_bytes(content)


def _write_sequences(files: Files) -> None:
    """Two sequences of each of four people: two files, the files of nnU-Net, one 4D file."""
    of_nnunet = ([files.images / f"{case}_{number:04d}.nii.gz" for number in range(2)] for case in "ab")
    for seed, paths in enumerate((files.patient, *of_nnunet), start=2):
        *both, _, geometry = scenes.sequences(seed, *SHAPE_AND_SPACING_MM)
        for sequence, path in zip(both, paths, strict=True):
            write_nifti(path, sequence, geometry)
    *both, _, geometry = scenes.sequences(5, *SHAPE_AND_SPACING_MM)
    volumes = np.stack([geometry.to_source(sequence) for sequence in both], axis=-1)
    nibabel.save(nibabel.Nifti1Image(volumes, geometry.matrix), files.volumes)
