"""Label files of every kind come onto their scan's grid as whole numbers, with names, colours and notes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
from dicom_files import write_series
from medssl.core.errors import UserError
from medssl.core.io.dicom_seg import dicom_seg_bytes
from medssl.core.io.geometry import Geometry
from medssl.core.io.labels import read_labels
from medssl.core.io.volume import read_scan
from medssl.core.project.contents import LabelClass

AFFINE = np.array([[-0.9, 0, 0, 20], [0, -0.9, 0, 31], [0, 0, 3, -100], [0, 0, 0, 1.0]])
SHAPE = (12, 10, 8)
"""(i, j, k) of the scan."""
SCAN = Geometry.of(AFFINE, SHAPE)


def made(high: int = 2) -> np.ndarray:
    """Labels 1 and `high` in the file order of the scan, away from its borders, (i, j, k)."""
    labels = np.zeros(SHAPE, np.int32)
    labels[3:8, 4:9, 2:6], labels[5:7, 5:7, 3:5] = 1, high
    return labels


def nifti(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def seg_nrrd(path: Path, layers: list[np.ndarray], corner: tuple[int, int, int], *entries: str) -> Path:
    """A file as 3D Slicer writes it: layers (i, j, k) that begin at a voxel of the scan."""
    origin = np.diag([-1.0, -1.0, 1.0]) @ (AFFINE[:3, :3] @ corner + AFFINE[:3, 3])
    several = len(layers) > 1
    sizes = [*([len(layers)] if several else []), *layers[0].shape]
    header = [
        "NRRD0004",
        "type: uint8",
        f"dimension: {len(sizes)}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, sizes))}",
        f"space directions: {'none ' if several else ''}(0.9,0,0) (0,0.9,0) (0,0,3)",
        f"kinds: {'list ' if several else ''}domain domain domain",
        "encoding: gzip",
        f"space origin: ({','.join(map(str, origin))})",
        *entries,
    ]
    array = np.stack(layers) if several else layers[0]
    content = gzip.compress(array.astype(np.uint8).tobytes(order="F"))
    path.write_bytes("\n".join(header).encode() + b"\n\n" + content)
    return path


@pytest.mark.parametrize("error", [1e-7, -2e-5, 0.015])
def test_values_a_hair_off_whole_numbers_are_rounded_with_a_note(tmp_path: Path, error: float) -> None:
    values = made().astype(np.float32)
    values[values > 0] += np.float32(error)
    labels = read_labels(nifti(tmp_path / "a.nii", values), SCAN)
    assert np.array_equal(labels.array, SCAN.to_canonical(made())) and labels.array.dtype == np.uint8
    assert labels.notes == ("values rounded to whole numbers",)


@pytest.mark.parametrize("stored", [np.int16, np.uint8])
def test_scaled_integers_are_rounded(tmp_path: Path, stored: type) -> None:
    image = nibabel.Nifti1Image(made(7).astype(np.float64), AFFINE)
    image.set_data_dtype(stored)
    nibabel.save(image, tmp_path / "a.nii")
    assert set(read_labels(tmp_path / "a.nii").values()) == {1, 7}


def test_nan_is_background(tmp_path: Path) -> None:
    values = np.where(made() == 0, np.nan, made()).astype(np.float32)
    labels = read_labels(nifti(tmp_path / "a.nii", values), SCAN)
    assert np.array_equal(labels.array, SCAN.to_canonical(made())) and labels.notes == ("NaN taken as 0",)


@pytest.mark.parametrize("value", [0.4, -1, np.inf])
def test_other_values_are_refused_with_the_reason(tmp_path: Path, value: float) -> None:
    values = made().astype(np.float32)
    values[0, 0, 0] = value
    with pytest.raises(UserError, match=r"a\.nii is not a label volume: its values") as error:
        read_labels(nifti(tmp_path / "a.nii", values))
    assert error.value.code == "not-labels"


@pytest.mark.parametrize("high", [255, 2035, 70000, 614454277])
def test_ids_of_any_size_are_kept(tmp_path: Path, high: int) -> None:
    assert read_labels(nifti(tmp_path / "a.nii", made(high))).values() == [1, high]


def test_a_cropped_segmentation_is_padded_and_has_names_and_colours(tmp_path: Path) -> None:
    entries = ("Segment0_Name:=liver", "Segment0_LabelValue:=1", "Segment0_Layer:=0",
               "Segment0_Color:=1 0.5 0", "Segment1_Name:=tumor", "Segment1_LabelValue:=2",
               "Segment1_Layer:=0")  # fmt: skip
    labels = read_labels(
        seg_nrrd(tmp_path / "a.seg.nrrd", [made()[3:8, 4:9, 2:6]], (3, 4, 2), *entries), SCAN
    )
    assert np.array_equal(labels.array, SCAN.to_canonical(made()))
    assert labels.names == {1: "liver", 2: "tumor"} and labels.colors == {1: "#ff8000"}
    assert labels.notes == ("padded from 5 × 5 × 4 to the 12 × 10 × 8 voxels of the scan",)


def test_a_segmentation_of_one_slice_is_padded(tmp_path: Path) -> None:
    path = seg_nrrd(tmp_path / "a.seg.nrrd", [made()[3:8, 4:9, 3:4]], (3, 4, 3), "Segment0_Name:=liver")
    array = read_labels(path, SCAN).array
    assert np.array_equal(array[3], SCAN.to_canonical(made())[3]) and not array[[2, 4]].any()


@pytest.mark.parametrize("described", [True, False], ids=["Slicer 5", "Slicer 4.10"])
def test_layers_are_merged_and_the_later_segment_wins(tmp_path: Path, described: bool) -> None:
    layers = [made() > 0, made() == 2]
    entries = ["Segment0_Name:=liver", "Segment1_Name:=tumor"]
    if described:
        entries += [f"Segment{number}_{entry}" for number in (0, 1) for entry in (
            "LabelValue:=1", f"Layer:={number}")]  # fmt: skip
    labels = read_labels(seg_nrrd(tmp_path / "a.seg.nrrd", layers, (0, 0, 0), *entries), SCAN)
    assert np.array_equal(labels.array, SCAN.to_canonical(made()))
    assert labels.names == {1: "liver", 2: "tumor"}
    assert labels.notes == ("8 voxels are in several segments and belong to the last of them",)


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("shape", ["channels last", "ITK vector"])
def test_a_channel_for_each_label(tmp_path: Path, background: bool, shape: str) -> None:
    channels = np.stack([made() == value for value in range(0 if background else 1, 3)], -1).astype(np.uint8)
    labels = read_labels(
        nifti(tmp_path / "a.nii", channels if shape == "channels last" else channels[..., None, :])
    )
    assert np.array_equal(labels.array, SCAN.to_canonical(made())) and labels.notes == ()


def test_a_time_series_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="3 channels are not masks"):
        read_labels(nifti(tmp_path / "a.nii", np.stack([made(3)] * 3, -1)))


def beside(folder: Path, kind: str) -> None:
    """A table with names (and colours) of 1 and 2."""
    match kind:
        case "dataset.json":
            labels = {"labels": {"background": 0, "liver": 1, "tumor": 2}}
            (folder / "dataset.json").write_text(json.dumps(labels))
        case ".tsv":
            (folder / "a.tsv").write_text("index\tname\tcolor\n1\tliver\t#FF8000\n2\ttumor\t#0000ff\n")
        case "a.txt" | "any name.label":
            lines = ["# ITK-SNAP", '1 255 128 0 1 1 1 "liver"', '2 0 0 255 1 1 1 "tumor"']
            (folder / kind).write_text("\n".join(lines))
        case _:
            (folder / kind).write_text("# Slicer\n1 liver 255 128 0 255\n2 tumor 0 0 255 255\n")


@pytest.mark.parametrize(
    "kind", ["dataset.json", ".tsv", "a.txt", "any name.label", "a.ctbl", "a-label_ColorTable.ctbl"]
)
def test_names_come_from_the_table_beside_the_file(tmp_path: Path, kind: str) -> None:
    path = nifti(tmp_path / "a.nii.gz", made().astype(np.uint8))
    beside(tmp_path, kind)
    labels = read_labels(path)
    assert labels.names == {1: "liver", 2: "tumor"}
    assert labels.colors == ({} if kind == "dataset.json" else {1: "#ff8000", 2: "#0000ff"})


def test_names_come_from_the_table_in_the_header(tmp_path: Path) -> None:
    """As TotalSegmentator writes it."""
    image = nibabel.Nifti1Image(made().astype(np.uint8), AFFINE)
    entry = '<Label Key="{}" Red="1.0" Green="0.0" Blue="0.0" Alpha="1"><![CDATA[{}]]></Label>'
    table = f"<LabelTable>{entry.format(1, 'liver')}\n{entry.format(2, 'spleen')}</LabelTable>"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, table.encode()))
    nibabel.save(image, tmp_path / "a.nii.gz")
    labels = read_labels(tmp_path / "a.nii.gz")
    assert labels.names == {1: "liver", 2: "spleen"} and labels.colors == {1: "#ff0000", 2: "#ff0000"}


def test_masks_in_a_folder_are_one_structure_each(tmp_path: Path) -> None:
    """As TotalSegmentator writes them; a structure outside of the field of view has an empty one."""
    labels = made()
    for name, mask in {"liver": labels > 0, "spleen": labels == 2, "aorta": labels > 2}.items():
        nifti(tmp_path / f"{name}.nii.gz", mask.astype(np.uint8))
    merged = read_labels(tmp_path, SCAN)
    present = {merged.names[value]: merged.array == value for value in merged.values()}
    assert list(present) == ["liver", "spleen"]
    assert np.array_equal(present["spleen"], SCAN.to_canonical(labels == 2))
    assert np.array_equal(present["liver"], SCAN.to_canonical(labels == 1))
    assert merged.notes == ("8 voxels are in several segments and belong to the last of them",)


@pytest.mark.parametrize("kind", ["several labels", "another grid"])
def test_masks_in_a_folder_that_do_not_fit_together_are_refused(tmp_path: Path, kind: str) -> None:
    nifti(tmp_path / "a.nii.gz", (made() > 0).astype(np.uint8))
    other = made() if kind == "several labels" else np.ones((3, 4, 5))
    nifti(tmp_path / "b.nii.gz", other.astype(np.uint8))
    with pytest.raises(UserError, match=r"b\.nii\.gz has (several labels|another grid)"):
        read_labels(tmp_path)


def moved(corner: tuple[int, int, int]) -> np.ndarray:
    """The affine of a grid that begins at a voxel of the scan."""
    affine = AFFINE.copy()
    affine[:3, 3] += AFFINE[:3, :3] @ corner
    return affine


def test_a_larger_grid_is_cropped_and_what_is_lost_is_counted(tmp_path: Path) -> None:
    large = np.pad(made(), ((2, 1), (0, 3), (4, 0)))
    large[0, 0, 0] = 1
    labels = read_labels(nifti(tmp_path / "a.nii", large, moved((-2, 0, -4))), SCAN)
    assert np.array_equal(labels.array, SCAN.to_canonical(made()))
    assert labels.notes == (
        "cropped from 15 × 13 × 12 to the 12 × 10 × 8 voxels of the scan, which leaves out 1 labelled voxels",
    )


@pytest.mark.parametrize("kind", ["half a voxel", "same start", "partly outside", "same shape, moved"])
def test_other_grids_are_refused(tmp_path: Path, kind: str) -> None:
    """Scans without a position all start at the same voxel: those labels are another scan's."""
    crop = made()[3:8, 4:9, 2:6]
    array, corner = {
        "half a voxel": (crop, (3.5, 4, 2)),
        "same start": (crop, (0, 0, 0)),
        "partly outside": (crop, (9, 4, 2)),
        "same shape, moved": (made(), (0, 0, 1)),
    }[kind]
    with pytest.raises(UserError, match=r"a\.nii lies on another voxel grid") as error:
        read_labels(nifti(tmp_path / "a.nii", array, moved(corner)), SCAN)
    assert error.value.code == "other-grid"


# --- DICOM-SEG --------------------------------------------------------------------------------------

TISSUE = pydicom.sr.codedict.codes.SCT.Tissue
CLASSES = (LabelClass(1, "Liver", "#ff8000"), LabelClass(7, "Tumour", "#0000ff"))
DIRECTIONS = {
    "axial": {},
    "sagittal": {"directions": (0, 1, 0, 0, 0, -1), "step": (2.5, 0, 0)},
    "oblique": {"directions": (1, 0, 0, 0, 0.8, -0.6), "step": (0, 1.8, 2.4)},
    "tilted gantry": {"step": (0, 0.6, 3.0)},
}


@pytest.mark.parametrize("geometry", DIRECTIONS.values(), ids=DIRECTIONS)
def test_a_dicom_seg_comes_back_on_the_grid_of_its_series(tmp_path: Path, geometry: dict) -> None:
    write_series(tmp_path / "series", **geometry)
    scan = read_scan(tmp_path / "series").geometry
    truth = np.random.default_rng(0).choice(np.array([0, 0, 1, 7], np.uint8), scan.shape_zyx)
    (tmp_path / "s.dcm").write_bytes(dicom_seg_bytes(truth, scan, tmp_path / "series", CLASSES, "MANUAL"))
    labels = read_labels(tmp_path / "s.dcm", scan)
    assert np.array_equal(labels.array, np.array([0, 1, 2])[np.searchsorted([0, 1, 7], truth)])
    assert labels.names == {1: "Liver", 2: "Tumour"} and set(labels.colors) == {1, 2} and labels.notes == ()


def test_a_dicom_seg_of_some_slices_in_any_order(tmp_path: Path) -> None:
    """Slices 4, 0 and 1 of 6: their distances alone do not say how far apart slices are."""
    write_series(tmp_path / "series")
    scan = read_scan(tmp_path / "series").geometry
    truth = np.zeros(scan.shape_zyx, np.uint8)
    truth[[0, 1, 4], 2:6, 3:7] = 1
    source = [pydicom.dcmread(tmp_path / "series" / f"{number:03d}.dcm") for number in (4, 0, 1)]
    pixels = np.stack([scan.to_source(truth).T[number] for number in (4, 0, 1)])
    for image in source:
        image.PatientName = image.PatientBirthDate = image.PatientSex = image.AccessionNumber = ""
        image.StudyID = image.StudyDate = image.StudyTime = image.ReferringPhysicianName = ""
        image.SliceThickness = 3
    segmentation = highdicom.seg.Segmentation(
        source_images=source,
        pixel_array=pixels,
        segmentation_type="FRACTIONAL",
        segment_descriptions=[
            highdicom.seg.SegmentDescription(
                1, "Liver", TISSUE, TISSUE, "MANUAL"
            )
        ],
        series_instance_uid=highdicom.UID(), series_number=1, sop_instance_uid=highdicom.UID(),
        instance_number=1, manufacturer="m", manufacturer_model_name="m", software_versions="1",
        device_serial_number="1",
    )  # fmt: skip
    segmentation.save_as(tmp_path / "s.dcm")
    labels = read_labels(tmp_path / "s.dcm", scan)
    assert np.array_equal(labels.array, truth)
    assert any("one half" in note for note in labels.notes) and any("padded" in note for note in labels.notes)
