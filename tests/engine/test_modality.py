"""Which modality scans are taken as: by the file, the user, their values, or the other scans."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from dicom_files import write_series
from medssl.core.errors import UserError
from medssl.core.features.similarity import open_features, write_features
from medssl.core.project.modality import describe_modality, set_modality, settle_modalities
from medssl.core.project.project import Project
from medssl.core.project.training_data import training_data, unlike_training


@pytest.fixture
def crop() -> np.ndarray:
    """Soft tissue and bone without fat or air, in HU (I, J, K)."""
    scan = np.random.default_rng(0).normal(45, 8, (10, 11, 12)).round()
    scan[4:6] = 300
    return scan.astype(np.int16)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.create(tmp_path / "project")


def write(folder: Path, name: str, array: np.ndarray) -> Path:
    path = folder / f"{name}.nii"
    nibabel.save(nibabel.Nifti1Image(array, np.diag([0.9, 0.9, 3, 1])), path)
    return path


def with_air(array: np.ndarray) -> np.ndarray:
    return np.pad(array, 2, constant_values=-1000)


def mr(array: np.ndarray) -> np.ndarray:
    """The same anatomy as an MR of 8 bits: dark background and tissue up to 255."""
    return (np.pad(array, 2, constant_values=0) / array.max() * 255).astype(np.uint8)


def modalities(project: Project) -> dict[str, tuple[str, str]]:
    return {scan.id: (scan.modality, scan.modality_source) for scan in project.scans.values()}


def test_the_file_decides_over_the_values(tmp_path: Path, project: Project) -> None:
    write_series(tmp_path / "series", Modality="MR")
    scan = project.add_scan(tmp_path / "series")
    assert (scan.modality, scan.modality_source) == ("mr", "file")


def test_the_user_decides_over_the_file(tmp_path: Path, project: Project) -> None:
    write_series(tmp_path / "series", Modality="MR")
    scan = project.add_scan(tmp_path / "series", modality="CT")
    assert (scan.modality, scan.modality_source) == ("ct", "user")


def test_a_crop_is_taken_as_the_other_scans_are(tmp_path: Path, project: Project, crop: np.ndarray) -> None:
    project.add_scan(write(tmp_path, "whole", with_air(crop)))
    project.add_scan(write(tmp_path, "crop", crop))
    assert modalities(project) == {"whole": ("ct", ""), "crop": ("ct", "project")}


def test_a_scan_before_the_others_is_settled_by_them(
    tmp_path: Path, project: Project, crop: np.ndarray
) -> None:
    project.add_scan(write(tmp_path, "dark", mr(crop)))  # would be an MR, if it were alone
    project.add_scan(write(tmp_path, "whole", with_air(crop)))
    assert modalities(project)["dark"] == ("mr", "unsure")
    before = project.image("dark").copy()
    settle_modalities(project, ["dark", "whole"])
    assert modalities(project) == {"dark": ("ct", "project"), "whole": ("ct", "")}
    assert not np.array_equal(project.image("dark"), before)


def test_scans_of_former_sessions_are_not_changed(tmp_path: Path, project: Project, crop: np.ndarray) -> None:
    project.add_scan(write(tmp_path, "dark", mr(crop)))
    project.add_scan(write(tmp_path, "whole", with_air(crop)))
    settle_modalities(project, ["whole"])
    assert modalities(project)["dark"] == ("mr", "unsure")


def test_scans_of_different_modalities_decide_about_no_other(
    tmp_path: Path, project: Project, crop: np.ndarray
) -> None:
    project.add_scan(write(tmp_path, "whole", with_air(crop)))
    project.add_scan(write(tmp_path, "weighted", (crop.astype(np.int32) * 7 + 200).astype(np.int16)))
    project.add_scan(write(tmp_path, "crop", crop))
    settle_modalities(project, ["crop"])
    assert modalities(project) == {
        "whole": ("ct", ""),
        "weighted": ("mr", ""),
        "crop": ("ct", "unsure"),
    }


def test_most_guesses_decide_where_none_is_certain(
    tmp_path: Path, project: Project, crop: np.ndarray
) -> None:
    for name, array in (("a", crop), ("b", crop + 1), ("dark", mr(crop))):
        project.add_scan(write(tmp_path, name, array))
    settle_modalities(project, list(project.scans))
    assert modalities(project) == dict.fromkeys(("a", "b", "dark"), ("ct", "unsure"))


def test_a_second_copy_that_states_its_modality_decides_about_the_first(
    tmp_path: Path, project: Project
) -> None:
    write_series(tmp_path / "series", Modality="CT")
    first = project.add_scan(tmp_path / "series", modality="mr")
    contents = project.scans[first.id]
    project.change_modality(first.id, contents.modality, "unsure")
    again = project.add_scan(tmp_path / "series")
    assert (again.id, again.modality, again.modality_source) == (first.id, "ct", "file")


def test_another_modality_is_another_image_with_other_features(
    tmp_path: Path, project: Project, crop: np.ndarray
) -> None:
    project.add_scan(write(tmp_path, "crop", crop))
    run = project.new_run("finetune", {"job": "finetune"}, "finetune")
    write_features(project, "crop", run.id, np.zeros((3, 3, 2, 4), np.float16), (5, 5, 5))
    open_features(project, "crop", run.id)
    set_modality(project, "crop", "mr")
    assert Project.open(project.root).scans["crop"].modality_source == "user"
    assert abs(float(project.image("crop").mean())) < 1e-2  # standardised
    with pytest.raises(UserError):
        open_features(project, "crop", run.id)


def test_a_changed_file_keeps_its_image(tmp_path: Path, project: Project, crop: np.ndarray) -> None:
    project.add_scan(write(tmp_path, "crop", crop))
    write(tmp_path, "crop", crop[::-1])
    with pytest.raises(UserError, match=r"crop\.nii has changed") as error:
        set_modality(project, "crop", "mr")
    assert error.value.code == "changed"
    assert modalities(project) == {"crop": ("ct", "unsure")}


def test_an_undefined_background_is_air_for_a_ct_that_does_not_look_like_one(
    tmp_path: Path, project: Project, crop: np.ndarray
) -> None:
    scan = mr(crop).astype(np.float32)
    scan[:, :, :4] = np.nan
    image = project.image(project.add_scan(write(tmp_path, "scan", scan), modality="ct").id)
    assert (image[:4] == np.float16(np.arcsinh((-1024 - 40) / 100))).all()


def test_what_is_no_modality_is_refused(tmp_path: Path, project: Project, crop: np.ndarray) -> None:
    with pytest.raises(UserError, match="ct, mr, pt, us, other") as error:
        project.add_scan(write(tmp_path, "crop", crop), modality="xray")
    assert error.value.code == "bad-modality"


def test_it_is_said_where_a_modality_is_from(tmp_path: Path, project: Project, crop: np.ndarray) -> None:
    scan = project.add_scan(write(tmp_path, "crop", crop))
    assert describe_modality(scan) == "CT (uncertain)"
    assert describe_modality(replace(scan, modality_source="user")) == "CT (as set)"


@pytest.mark.parametrize(
    "field, value, said",
    [
        ("modality", "ct", "CT, but"),
        ("spacing", (2.0, 2.0, 2.0), "voxels of 2 x 2 x 2 mm"),
        ("shape", (11, 30, 12), "a size of 10.8 x 27 x 33 mm"),
        ("shape", (14, 12, 15), ""),
        ("spacing", (3.9, 1.2, 1.2), ""),
    ],
)
def test_a_scan_unlike_those_of_the_training_is_named(
    tmp_path: Path, project: Project, crop: np.ndarray, field: str, value: object, said: str
) -> None:
    trained = project.add_scan(write(tmp_path, "trained", crop), modality="mr")
    modality, spacing, shape = trained.modality, (3.0, 0.9, 0.9), (12, 11, 10)
    changed = {"modality": modality, "spacing": spacing, "shape": shape, field: value}
    array = np.random.default_rng(1).normal(100, 9, changed["shape"][::-1])  # type: ignore[index]
    image = nibabel.Nifti1Image(array, np.diag([*changed["spacing"][::-1], 1]))  # type: ignore[index]
    nibabel.save(image, tmp_path / "new.nii")
    scan = project.add_scan(tmp_path / "new.nii", modality=str(changed["modality"]))
    sentence = unlike_training({"training_data": training_data([trained])}, scan)
    assert said in sentence if said else not sentence


def test_weights_of_former_versions_do_not_say_what_they_were_trained_on(
    tmp_path: Path, project: Project, crop: np.ndarray
) -> None:
    assert unlike_training({"kind": "finetune"}, project.add_scan(write(tmp_path, "crop", crop))) == ""
