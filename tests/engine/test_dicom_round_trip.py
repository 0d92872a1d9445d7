"""DICOM series in, DICOM-SEG out: through a project and the command line, read back on the same grid."""

from __future__ import annotations

from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import write_series
from medssl.cli import app
from medssl.core.io.dicom import read_stack
from medssl.core.project.project import Annotation, LabelClass, Project
from small import plan
from test_predict import predictor
from typer.testing import CliRunner

CLASSES = (LabelClass(1, "Liver", "#ff9e64"), LabelClass(7, "Gefäß", "#7aa2ff"))


def exported(series: Path, folder: Path) -> tuple[Project, str, Path]:
    """A project of the series with strokes and a run that has predicted nothing yet, exported by `medssl`."""
    project = Project.create(folder / "project", CLASSES)
    scan = project.add_scan(series)
    strokes = np.zeros(scan.geometry.shape_zyx, np.uint8)
    strokes[1, 2:5, 2:5], strokes[0, 1, 1] = 7, 255
    project.save_annotation(scan.id, Annotation(strokes, ((0, 2),)))
    run = predictor(project, plan(), seed=1)
    command = [
        "export",
        str(project.root),
        "--out",
        str(folder / "out"),
        "--format",
        "dcm",
        "--device",
        "cpu",
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output + repr(result.exception)
    path = folder / "out" / f"{scan.id}_segmentation.dcm"
    assert result.stdout.split() == [str(path)]
    return project, run, path


def assert_read_back(series: Path, folder: Path) -> None:
    """highdicom and SimpleITK find on the series' own grid, voxel by voxel, what the project says."""
    project, run, path = exported(series, folder)
    (scan,) = project.scans.values()
    assert project.has_prediction(run, scan.id), "exporting has predicted first"
    truth = project.segmentation(scan.id, run)
    assert set(np.unique(truth)) <= {0, 1, 7} and (truth == 7).any() and not truth[2].any()

    stack = read_stack(series)
    files = [str(stack.files[number]) for number in stack.order]
    wanted = scan.geometry.to_source(truth).T  # (slice in the stack's order, row, column)

    segmentation = highdicom.seg.segread(path)
    instances = [pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID for file in files]
    frames = segmentation.get_pixels_by_source_instance(
        instances, combine_segments=True, segment_numbers=[1, 2]
    )
    assert np.array_equal(np.array([0, 1, 7])[frames], wanted)

    image, source = sitk.ReadImage(str(path)), sitk.ReadImage(files)
    assert image.GetOrigin() == pytest.approx(source.GetOrigin(), abs=1e-3)
    assert image.GetSpacing() == pytest.approx(source.GetSpacing(), abs=1e-4)
    assert image.GetDirection() == pytest.approx(source.GetDirection(), abs=1e-4)
    segments = sitk.GetArrayFromImage(image).reshape(len(CLASSES), *wanted.shape)
    for segment, item in zip(segments, CLASSES, strict=True):
        assert np.array_equal(segment > 0, wanted == item.id)


@pytest.mark.data
@pytest.mark.parametrize("name", ["dicom_series_flair_oblique_thick", "dicom_series_torchio"])
def test_dicom_series_in_dicom_seg_out_on_the_same_grid_with_the_same_voxels(
    data: Path, tmp_path: Path, name: str
) -> None:
    assert_read_back(data / "robustness" / name, tmp_path)


def test_the_same_on_a_small_series_that_is_always_here(tmp_path: Path) -> None:
    write_series(tmp_path / "series", directions=(1, 0, 0, 0, 0.8, -0.6), step=(0, 1.8, 2.4))
    assert_read_back(tmp_path / "series", tmp_path)
