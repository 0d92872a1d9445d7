"""Every odd file is read right or refused in one sentence, and files are found."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from medssl.core.io.volume import read_scan
from volume_files import ORIENTATIONS, numbered, reference, refusal

READ = {
    # name: axis codes and canonical shape
    "FLAIR.nrrd": ("RAS", (140, 160, 124)),
    "brain2_image_0.78x0.78x6.5.nrrd": ("LAS", (23, 256, 256)),
    "brain2_label.nrrd": ("LAS", (23, 256, 256)),
    "breast1_image.nrrd": ("LPS", (21, 120, 45)),
    "breast1_label.nrrd": ("LPS", (21, 120, 45)),
    "ct_30slices_3mm.nii.gz": ("RAS", (30, 101, 122)),
    "ct_head_PHANTOM_pitch_oblique.nii.gz": ("RAS", (58, 248, 175)),
    "freesurfer_brainmask.mgz": ("LIA", (256, 256, 256)),
    "label_256.nii.gz": ("LIA", (256, 256, 256)),
    "label_only_torso_384x320x89.nii.gz": ("RAS", (89, 320, 384)),
    "mha.mha": ("LAS", (37, 64, 64)),
    "nifti_PSR_spine_t2.nii.gz": ("PSR", (55, 60, 52)),
    "nifti_PSR_spine_t2_label.nii.gz": ("PSR", (55, 60, 52)),
    "nifti_aniso_0.5x0.5x7.5.nii.gz": ("LAS", (11, 320, 320)),
    "nifti_aniso_0.5x0.5x7.5_label.nii.gz": ("LAS", (11, 320, 320)),
    "nifti_bigendian_q0s0.nii.gz": ("LAS", (10, 64, 64)),
    "nifti_bigendian_q0s4.nii.gz": ("RAS", (91, 109, 91)),
    "nifti_gantry_tilt_shear.nii.gz": ("RAS", (54, 422, 306)),
    "nifti_int32_fmri.nii.gz": ("LAS", (60, 90, 90)),
    "nifti_int64_trailing_singleton_4d.nii.gz": ("LAS", (9, 54, 49)),
    "nifti_oblique_fmri.nii.gz": ("RAS", (35, 64, 64)),
    "nifti_q0s2_monkey_T2w.nii.gz": ("LAS", (156, 185, 148)),
    "nifti_sform0_q1_ch2_float.nii.gz": ("RAS", (181, 217, 181)),
    "nifti_tiny_7x5x3.nii.gz": ("RAS", (3, 5, 7)),
    "nifti_uint32_IPL.nii.gz": ("IPL", (266, 266, 190)),
    "nifti_uncompressed_anatomical.nii": ("LAS", (25, 41, 33)),
    "pair_ras.hdr": ("RAS", (34, 41, 62)),
    "pair_ras.img": ("RAS", (34, 41, 62)),
    "spine_t1w.nii.gz": ("RAS", (77, 76, 42)),
    "spine_t1w_label.nii.gz": ("RAS", (77, 76, 42)),
}
REFUSED = {
    "SOURCE.txt": "unsupported",
    "dicom_SEG_glioma.dcm": "unsupported",
    "mrtrix_fa.mif": "unsupported",
    "tiny.mnc": "unsupported",
    "nifti2_example.nii.gz": "several-volumes",
    "nifti_4d_asl_25vol.nii.gz": "several-volumes",
    "nifti_4d_example.nii.gz": "several-volumes",
    "nifti_4d_fmri_0.96x0.96x16.8_30vol.nii.gz": "several-volumes",
    "nifti_complex64.nii.gz": "not-scalar",
    "nifti_rgb24.nii.gz": "not-scalar",
    "nifti_rgb_ivadomed.nii.gz": "not-scalar",
    "nifti_vector_V1.nii.gz": "several-volumes",
    "nifti_space_48_orientations": "unreadable",
}
BY_DICOM_TESTS = ("dicom_series", "dicom_enhanced")


@pytest.fixture
def nifti(tmp_path: Path) -> Path:
    path = tmp_path / "whole.nii.gz"
    noise = np.random.default_rng(0).normal(0, 1, (20, 20, 20))
    nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), path)
    return path


@pytest.mark.data
def test_every_odd_file_has_an_expectation(data: Path) -> None:
    known = {*READ, *REFUSED}
    names = {path.name for path in (data / "robustness").iterdir()}
    assert {name for name in names - known if not name.startswith(BY_DICOM_TESTS)} == set()


@pytest.mark.data
@pytest.mark.parametrize("name", READ)
def test_an_odd_file_is_read_as_its_library_reads_it(data: Path, name: str) -> None:
    path = data / "robustness" / name
    volume, (array, affine) = read_scan(path), reference(path)
    assert (volume.geometry.axis_codes, volume.array.shape) == READ[name]
    assert volume.array.dtype == np.float32
    to_source = np.linalg.inv(affine)
    generator = np.random.default_rng(0)
    for _ in range(50):
        zyx = tuple(int(generator.integers(length)) for length in volume.array.shape)
        ijk = (to_source @ volume.geometry.canonical_affine @ [*zyx, 1])[:3]
        assert ijk == pytest.approx(np.round(ijk), abs=1e-3)
        assert volume.array[zyx] == np.float32(array[tuple(np.round(ijk).astype(int))])


@pytest.mark.data
@pytest.mark.parametrize("name", REFUSED)
def test_an_odd_file_is_refused_in_one_sentence(data: Path, name: str) -> None:
    assert refusal(data / "robustness" / name) == REFUSED[name]


@pytest.mark.data
def test_all_48_orientations_show_the_same_anatomy(data: Path) -> None:
    folder = data / "robustness" / "nifti_space_48_orientations"
    first = read_scan(folder / "RAS.nii.gz")
    for code in ORIENTATIONS:
        volume = read_scan(folder / f"{code}.nii.gz")
        assert volume.geometry.axis_codes == code
        assert np.allclose(volume.array, first.array, rtol=1e-4)
        assert volume.geometry.canonical_affine == pytest.approx(first.geometry.canonical_affine, abs=1e-3)


def test_upper_case_endings_are_read(tmp_path: Path, nifti: Path) -> None:
    shutil.copy(nifti, tmp_path / "SCAN.NII.GZ")
    assert np.array_equal(read_scan(tmp_path / "SCAN.NII.GZ").array, read_scan(nifti).array)


@pytest.mark.parametrize("unit, factor", [("meter", 1000), ("micron", 0.001), ("mm", 1), ("unknown", 1)])
def test_the_unit_of_a_nifti_header_is_heeded(tmp_path: Path, unit: str, factor: float) -> None:
    image = nibabel.Nifti1Image(numbered(), np.diag([2.0, 3, 4, 1]))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "scan.nii")
    assert read_scan(tmp_path / "scan.nii").geometry.spacing_mm == pytest.approx(
        (4 * factor, 3 * factor, 2 * factor)
    )


def test_scaled_values_are_read(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(numbered(np.int16), np.eye(4))
    image.header.set_slope_inter(0.5, -100)
    nibabel.save(image, tmp_path / "scan.nii")
    assert read_scan(tmp_path / "scan.nii").array[0, 0, :3] == pytest.approx(
        nibabel.load(tmp_path / "scan.nii").get_fdata()[:3, 0, 0]
    )


READ_WITH_LITTLE = """
import resource, sys
from pathlib import Path
from medssl.core.errors import UserError
from medssl.core.io import dicom, itk, labels, nifti, read_dicom_seg, volume  # before memory is short
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[3]), -1))
try:
    getattr(labels if sys.argv[1] == "read_labels" else volume, sys.argv[1])(Path(sys.argv[2]))
    print("read")
except UserError as error:
    print(error.code, error)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited as Linux does it")
@pytest.mark.parametrize(("reader", "spare", "said"), [
    ("read_scan", 40, "too-large"), ("read_labels", 40, "too-large"), ("read_scan", 2000, "read"),
])  # fmt: skip
def test_a_file_that_does_not_fit_into_memory_is_not_called_damaged(
    tmp_path: Path, reader: str, spare: int, said: str
) -> None:
    array = np.zeros((256, 256, 400), np.int16)
    array[0] = 1
    path = tmp_path / "large.nii.gz"
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    given = [sys.executable, "-c", READ_WITH_LITTLE, reader, str(path), str(spare << 20)]
    answer = subprocess.run(given, capture_output=True, text=True, check=True).stdout
    assert answer.startswith(said), answer
    assert said == "read" or "large.nii.gz does not fit" in answer
