"""Files of no project: each is segmented by itself, and what cannot be used is left out by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import SHAPE, write_series
from medssl.cli.external import predict_outside, segmentation_path
from medssl.cli.refusals import Refusals
from medssl.core.errors import UserError
from medssl.core.export.provenance import record_path
from medssl.core.io.find import find_scans
from medssl.core.io.scan_file import ScanFile
from medssl.core.jobs import Job, PredictJob
from medssl.core.project.project import Project, Run


def work(job: Job) -> dict[str, Any]:
    """Predicts class 1 everywhere, in the network's place."""
    assert isinstance(job, PredictJob)
    project = Project.open(Path(job.project))
    for scan in job.scans:
        labels = np.ones(project.scans[scan].geometry.shape_zyx, np.uint8)
        project.save_prediction(job.weights, scan, labels)
    return {"stopped": False}


@pytest.fixture
def run(small_project: Project) -> Run:
    made = small_project.new_run("finetune", {"job": "finetune"}, "from-random")
    made.checkpoint.write_bytes(b"weights")
    return made


@pytest.fixture
def folder(tmp_path: Path, second_file: Path) -> Path:
    """A folder with a NIfTI file, a damaged one, and a DICOM series."""
    found = tmp_path / "new"
    (found / "deep").mkdir(parents=True)
    second_file.rename(found / "deep" / "good.nii")
    (found / "bad.nii.gz").write_bytes(b"nothing")
    write_series(found / "series")
    return found


class Recorded(Refusals):
    """Reports refusals and keeps them by file name."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}

    def __call__(self, path: Path, error: UserError) -> None:
        super().__call__(path, error)
        self.texts[path.name] = str(error)


def segment(
    project: Project, run: Run, paths: list[Path], out: Path | None, ending: str = ".nii.gz"
) -> tuple[list[Path], dict[str, str]]:
    refused = Recorded()
    job = PredictJob(project=str(project.root))
    written = predict_outside(
        project, run, find_scans(paths).scans, out, ending, job, work,
        refused,
    )  # fmt: skip
    return written, refused.texts


def test_a_folder_of_files_is_segmented_and_the_bad_one_named(
    small_project: Project, run: Run, folder: Path, tmp_path: Path
) -> None:
    written, refused = segment(small_project, run, [folder], tmp_path / "out")
    assert {path.name for path in written} == {"good_segmentation.nii.gz", "series_segmentation.nii.gz"}
    assert set(refused) == {"bad.nii.gz"} and "\n" not in refused["bad.nii.gz"]
    source, made = nibabel.load(folder / "deep" / "good.nii"), nibabel.load(written[0])
    assert made.shape == source.shape and np.array_equal(made.affine, source.affine)
    assert all(record_path(path).exists() for path in written)
    table = (tmp_path / "out" / "volumes.csv").read_text().splitlines()
    assert table[0] == "scan,class,voxels,ml,accepted"
    assert {line.split(",")[0] for line in table[1:]} == {"good", "series"}
    assert set(small_project.scans) == {"scan"}


def test_dicom_series_outside_become_dicom_seg_and_other_files_are_named(
    small_project: Project, run: Run, folder: Path, tmp_path: Path
) -> None:
    written, refused = segment(small_project, run, [folder], tmp_path / "out", ".dcm")
    assert [path.name for path in written] == ["series_segmentation.dcm"]
    assert "not read from DICOM" in refused["good.nii"]
    voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(written[0])))
    assert voxels.shape == SHAPE and voxels.all()  # class 1 everywhere; class 2 is no segment


def test_a_second_time_the_segmentations_beside_the_scans_are_no_scans(
    small_project: Project, run: Run, folder: Path
) -> None:
    first, _ = segment(small_project, run, [folder], None)
    assert {path.parent for path in first} == {folder / "deep", folder}
    again, _ = segment(small_project, run, [folder], None)
    assert again == first


@pytest.mark.parametrize("code", ["foreign-checkpoint", "no-device", "no-host", "connection"])
def test_what_no_scan_can_do_without_ends_it_at_the_first(
    small_project: Project, run: Run, folder: Path, tmp_path: Path, code: str
) -> None:
    def refuse(job: Job) -> dict[str, Any]:
        raise UserError("The checkpoint is damaged.", code=code)

    with pytest.raises(UserError, match="checkpoint"):
        predict_outside(
            small_project, run, find_scans([folder / "series"]).scans, tmp_path, ".nii.gz",
            PredictJob(project=str(small_project.root)), refuse, Recorded(),
        )  # fmt: skip


def test_a_file_drawn_by_hand_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "scan_segmentation.nii.gz").write_bytes(b"drawn by hand")
    scan = ScanFile(tmp_path / "scan.nii.gz", "scan", "scan", given=True)
    assert segmentation_path(scan, None, []) == tmp_path / "scan_2_segmentation.nii.gz"
