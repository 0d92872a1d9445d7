"""Files that are damaged, or no single scan, are refused in one sentence."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from medssl.core.errors import UserError
from medssl.core.io.volume import read_scan
from volume_files import numbered, refusal, save


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mgz", ".nrrd", ".mha"])
@pytest.mark.parametrize("part", [0.5, 0.98])
def test_a_file_that_is_cut_off_is_refused(
    tmp_path: Path, ending: str, part: float, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).normal(0, 1, (20, 20, 20)).astype(np.float32)
    if ending == ".mgz":
        path = tmp_path / "scan.mgz"
        nibabel.save(nibabel.MGHImage(noise, np.eye(4)), path)
    else:
        path = save(tmp_path, noise, ending)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    assert refusal(path) == "unreadable"


@pytest.mark.parametrize(
    "ending", [".nii", ".nii.gz", ".hdr", ".img", ".mgz", ".mgh", ".nrrd", ".mha", ".mhd"]
)
@pytest.mark.parametrize("content", [b"", b"this is no scan\n" * 50], ids=["empty", "text"])
def test_a_file_that_only_has_the_ending_is_refused(tmp_path: Path, ending: str, content: bytes) -> None:
    (tmp_path / f"scan{ending}").write_bytes(content)
    expected = "missing" if ending == ".img" else "unreadable"  # its header is another file
    assert refusal(tmp_path / f"scan{ending}") == expected


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_header_that_promises_far_too_much_is_refused(tmp_path: Path, ending: str) -> None:
    header = bytearray(save(tmp_path, numbered(), ".nii").read_bytes())
    header[42:48] = np.array([30000] * 3, "<i2").tobytes()
    path = tmp_path / f"large{ending}"
    path.write_bytes(gzip.compress(header) if ending == ".nii.gz" else header)
    assert refusal(path) == "unreadable"


@pytest.mark.parametrize("compressed", [False, True], ids=["raw", "gzip"])
@pytest.mark.parametrize("name", ["scan.nrrd", "scan.nhdr", "scan.mha", "scan.mhd"])
def test_a_damaged_size_is_refused_before_itk_takes_the_memory_for_it(
    tmp_path: Path, name: str, compressed: bool
) -> None:
    path = tmp_path / name
    sitk.WriteImage(sitk.GetImageFromArray(numbered(np.int16)), str(path), compressed)
    assert read_scan(path).array.shape == (5, 6, 7)
    whole = path.read_bytes()
    for size in (b"7 6 6", b"30000 20000 4"):
        path.write_bytes(whole.replace(b"sizes: 7 6 5", b"sizes: " + size).replace(b"7 6 5\n", size + b"\n"))
        with pytest.raises(UserError, match=f"{name} cannot be read.*header declares .* and it has 420"):
            read_scan(path)


@pytest.mark.parametrize("name", ["whole.nii.gz", "whole.nii", "whole.nrrd", "whole.mha", "whole.mgz"])
def test_bytes_damaged_anywhere_give_a_sentence_or_a_scan(tmp_path: Path, name: str) -> None:
    generator = np.random.default_rng(0)
    if name.endswith(".mgz"):
        nibabel.save(nibabel.MGHImage(numbered(), np.eye(4)), tmp_path / name)
    else:
        save(tmp_path, numbered(), name.removeprefix("whole")).rename(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for _ in range(60):
        damaged = bytearray(whole)
        for at in generator.integers(len(whole), size=3):
            damaged[at] = generator.integers(256)
        (tmp_path / name).write_bytes(damaged)
        try:
            read_scan(tmp_path / name)
        except UserError as error:
            assert name in str(error)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_scan_without_a_number_is_refused(tmp_path: Path, value: float) -> None:
    assert refusal(save(tmp_path, np.full((5, 6, 7), value, np.float32))) == "not-finite"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_constant_scan_on_an_undefined_background_is_refused(tmp_path: Path, value: float) -> None:
    array = np.full((5, 6, 7), 3.0)
    array[0] = value
    assert refusal(save(tmp_path, array)) == "constant"


def test_a_constant_scan_is_refused(tmp_path: Path) -> None:
    assert refusal(save(tmp_path, np.full((5, 6, 7), 3.0))) == "constant"


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 1), (3, 4, 5, 6)], ids=["2D", "one slice", "4D"])
def test_what_is_not_one_volume_is_refused(tmp_path: Path, ending: str, shape: tuple[int, ...]) -> None:
    expected = "several-volumes" if len(shape) == 4 else "not-3d"
    assert refusal(save(tmp_path, numbered(shape=shape), ending)) == expected


def test_a_trailing_axis_of_one_is_fine(tmp_path: Path) -> None:
    assert read_scan(save(tmp_path, numbered(shape=(4, 5, 6, 1)))).array.shape == (6, 5, 4)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_complex_numbers_are_refused(tmp_path: Path, ending: str) -> None:
    assert refusal(save(tmp_path, numbered(np.complex64), ending)) == "not-scalar"


def test_colours_are_refused(tmp_path: Path) -> None:
    colours = np.zeros((5, 6, 7), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert refusal(save(tmp_path, colours)) == "not-scalar"


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_vectors_are_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"scan{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(numbered(shape=(5, 6, 7, 3)), isVector=True), str(path))
    assert refusal(path) == "not-scalar"


def test_an_affine_without_space_is_refused(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(numbered(), np.eye(4))
    image.header["srow_x"] = 0
    image.header["srow_y"] = image.header["srow_z"] = [0, 1, 0, 0]
    (tmp_path / "scan.nii").write_bytes(image.header.binaryblock + b"\0\0\0\0" + numbered().tobytes())
    assert refusal(tmp_path / "scan.nii") == "bad-geometry"


def test_a_missing_file_and_a_missing_half_of_a_pair_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nothing.nii.gz") == "missing"
    nibabel.save(nibabel.Nifti1Pair(numbered(), np.eye(4)), tmp_path / "pair.hdr")
    (tmp_path / "pair.img").unlink()
    assert refusal(tmp_path / "pair.hdr") == "missing"
