"""Compressed files: a damaged one is refused or has the same voxels, a whole one is read whoever wrote it."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from medssl.core.errors import UserError
from medssl.core.io.volume import read_scan

IMAGE = (np.random.default_rng(0).normal(0, 100, (12, 10, 8)).cumsum(0)).astype(np.int16)
WRITTEN = {
    "scan.nii.gz": "scan.nii.gz", "scan.mgz": "scan.mgz", "scan.nrrd": "scan.nrrd", "scan.mha": "scan.mha",
    "scan.nhdr": "scan.raw.gz", "scan.mhd": "scan.zraw",
}  # fmt: skip
"""By the file that is read: the file with its voxels."""


def write(path: Path) -> Path:
    """Write the image; returns the file with its voxels."""
    if path.suffix in (".gz", ".mgz"):
        kind = nib.freesurfer.MGHImage if path.suffix == ".mgz" else nib.Nifti1Image
        nib.save(kind(IMAGE, np.eye(4)), path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(IMAGE), str(path), useCompression=True)
    return path.with_name(WRITTEN[path.name])


@pytest.mark.parametrize("name", WRITTEN)
def test_flipped_bits_are_refused_or_change_no_voxel(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name)
    whole, before = file.read_bytes(), read_scan(tmp_path / name).array
    header_end = {"scan.nrrd": b"\n\n", "scan.mha": b"LOCAL\n"}.get(name, b"")  # text has no checksum
    begin = whole.index(header_end) + len(header_end)
    refused, generator = 0, np.random.default_rng(1)
    for place in generator.integers(begin, len(whole), 60):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << generator.integers(8)
        file.write_bytes(damaged)
        try:
            assert (read_scan(tmp_path / name).array == before).all()
        except UserError as error:
            assert error.code == "unreadable"
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("name", WRITTEN)
def test_a_file_without_its_last_bytes_is_refused(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name)
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(UserError, match="get the file again"):
        read_scan(tmp_path / name)


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.mgz", "scan.nrrd"])
@pytest.mark.parametrize(
    "tail", [bytes(512), b"not gzip", gzip.compress(b"", mtime=0)], ids=["zeros", "text", "empty member"]
)
def test_what_gzip_ignores_behind_a_file_is_ignored(tmp_path: Path, name: str, tail: bytes) -> None:
    file = write(tmp_path / name)
    before = read_scan(file).array
    file.write_bytes(file.read_bytes() + tail)
    assert (read_scan(file).array == before).all()


def test_a_file_in_several_gzip_members_is_read_and_each_is_checked(tmp_path: Path) -> None:
    file = write(tmp_path / "scan.nii.gz")
    before, content = read_scan(file).array, gzip.decompress(file.read_bytes())
    members = [gzip.compress(content[start : start + 500]) for start in range(0, len(content), 500)]
    file.write_bytes(b"".join(members))
    assert (read_scan(file).array == before).all()
    members[-1] = members[-1][:-6] + bytes([members[-1][-6] ^ 1]) + members[-1][-5:]  # in the checksum
    file.write_bytes(b"".join(members))
    with pytest.raises(UserError, match="CRC"):
        read_scan(file)
