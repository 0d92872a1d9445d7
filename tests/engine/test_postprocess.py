"""Cleaning predictions up: parts and holes by hand, what is kept, and what an export makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from medssl.core.errors import UserError
from medssl.core.export.files import export_scan
from medssl.core.jobs import ExportJob
from medssl.core.labels.postprocess import (
    Postprocessing,
    clean,
    cleaned,
    postprocessing_of,
    read_cleaned,
    save_cleaned,
)
from medssl.core.project.project import Annotation, Project
from medssl.tasks.export import export_scans
from project_parts import code_of

LARGEST, HOLES = Postprocessing(largest=True), Postprocessing(fill_holes=True)


def two_parts(label: int = 1) -> np.ndarray:
    """A box of 27 voxels with a hole in its middle, and a bar of 4 somewhere else."""
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[1:4, 1:4, 1:4] = label
    labels[2, 2, 2] = 0
    labels[7, 7, 2:6] = label
    return labels


def test_only_the_largest_part_of_each_class_stays() -> None:
    labels = np.maximum(two_parts(1), two_parts(200).T[::-1])
    result = clean(labels, LARGEST, 1.0)
    for label in (1, 200):
        assert np.count_nonzero(labels == label) == 30
        assert np.count_nonzero(result == label) == 26
    assert np.array_equal(result[result > 0], labels[result > 0])


@pytest.mark.parametrize(("ml", "left"), [(0.003, 30), (0.004, 30), (0.0041, 26), (0.026, 26), (0.0261, 0)])
def test_parts_smaller_than_so_many_ml_go(ml: float, left: int) -> None:
    assert np.count_nonzero(clean(two_parts(), Postprocessing(drop_ml=ml), 0.001)) == left


def test_parts_that_touch_by_a_corner_are_one() -> None:
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = labels[2, 2, 2] = 1
    assert np.array_equal(clean(labels, LARGEST, 1.0), labels)


def test_a_hole_is_filled_and_a_hollow_that_is_open_is_not() -> None:
    labels = two_parts()
    assert clean(labels, HOLES, 1.0)[2, 2, 2] == 1
    labels[2, 2, 1] = 0
    assert np.array_equal(clean(labels, HOLES, 1.0), labels)


def test_what_reaches_the_border_of_the_scan_encloses_nothing_there() -> None:
    labels = np.ones((3, 3, 3), np.uint8)
    labels[0, 1, 1] = 0
    assert clean(labels, HOLES, 1.0)[0, 1, 1] == 0


def test_another_class_in_a_hole_stays() -> None:
    labels = np.ones((7, 7, 7), np.uint8)
    labels[2:5, 2:5, 2:5] = 0
    labels[3, 3, 3] = 2
    result = clean(labels, HOLES, 1.0)
    assert result[3, 3, 3] == 2
    assert np.count_nonzero(result == 1) == 342


def test_a_speck_in_a_hole_is_dropped_before_the_hole_is_filled() -> None:
    labels = two_parts()
    labels[2, 2, 2] = 2
    assert clean(labels, Postprocessing(drop_ml=0.002, fill_holes=True), 0.001)[2, 2, 2] == 1


def test_the_labels_that_were_given_are_left_as_they_are() -> None:
    labels = two_parts()
    clean(labels, Postprocessing(True, 1.0, True), 1.0)
    assert np.array_equal(labels, two_parts())


# --- kept, and exported -------------------------------------------------------------------------------

RUN = "0001-finetune-from-random"


@pytest.fixture
def predicted(small_project: Project) -> Project:
    """The small project with a prediction that has a large part and a speck."""
    run = small_project.new_run("finetune", {"job": "finetune"}, "from-random")
    run.checkpoint.write_bytes(b"weights")
    labels = np.zeros(small_project.scans["scan"].geometry.shape_zyx, np.uint8)
    labels[1:4, 2:6, 2:6], labels[5, 8, 9] = 1, 1
    small_project.save_prediction(run.id, "scan", labels)
    return small_project


def test_what_was_cleaned_is_kept_and_the_prediction_is_as_it_was(predicted: Project) -> None:
    before = predicted.prediction(RUN, "scan")
    assert before is not None and postprocessing_of(predicted, RUN, "scan") is None
    save_cleaned(predicted, RUN, "scan", LARGEST, cleaned(predicted, RUN, "scan", LARGEST))
    assert postprocessing_of(predicted, RUN, "scan") == LARGEST
    assert np.array_equal(predicted.prediction(RUN, "scan"), before)
    assert cleaned(predicted, RUN, "scan", LARGEST)[5, 8, 9] == 0
    assert cleaned(predicted, RUN, "scan", HOLES)[5, 8, 9] == 1, "cleaned otherwise: computed anew"


def test_what_was_cleaned_of_an_earlier_prediction_counts_no_more(predicted: Project) -> None:
    save_cleaned(predicted, RUN, "scan", LARGEST, cleaned(predicted, RUN, "scan", LARGEST))
    labels = predicted.prediction(RUN, "scan")
    assert labels is not None
    predicted.save_prediction(RUN, "scan", labels)
    assert postprocessing_of(predicted, RUN, "scan") == LARGEST, "predicted again alike"
    predicted.save_prediction(RUN, "scan", 2 * labels)
    assert postprocessing_of(predicted, RUN, "scan") is None
    assert cleaned(predicted, RUN, "scan", LARGEST).max() == 2


def test_an_exported_file_is_cleaned_its_record_says_so_and_strokes_stay(
    predicted: Project, tmp_path: Path
) -> None:
    strokes = np.zeros(predicted.scans["scan"].geometry.shape_zyx, np.uint8)
    strokes[0, 0, 0] = 2
    predicted.save_annotation("scan", Annotation(strokes))
    export_scan(predicted, "scan", RUN, tmp_path / "out.nii.gz", Postprocessing(True, 0.5, True))
    geometry = predicted.scans["scan"].geometry
    labels = geometry.to_canonical(np.asarray(nibabel.load(tmp_path / "out.nii.gz").dataobj))
    assert (labels[5, 8, 9], labels[2, 3, 3], labels[0, 0, 0]) == (0, 1, 2)
    record = json.loads((tmp_path / "out.nii.gz.json").read_text())
    done = {"largest": True, "drop_ml": 0.5, "fill_holes": True}
    assert record["prediction"]["cleaned_up"] == done
    export_scan(predicted, "scan", RUN, tmp_path / "raw.nii.gz")
    assert json.loads((tmp_path / "raw.nii.gz.json").read_text())["prediction"]["cleaned_up"] is None


def test_all_scans_are_exported_cleaned_alike(predicted: Project, tmp_path: Path) -> None:
    job = ExportJob(project=str(predicted.root), folder=str(tmp_path / "out"), weights=RUN, largest=True)
    export_scans(predicted, job, lambda event: None, lambda: False)
    labels = np.asarray(nibabel.load(tmp_path / "out" / "scan_segmentation.nii.gz").dataobj)
    assert np.count_nonzero(labels) == 48


def test_annotation_prediction_and_what_was_cleaned_do_not_pass_for_each_other(predicted: Project) -> None:
    save_cleaned(predicted, RUN, "scan", LARGEST, cleaned(predicted, RUN, "scan", LARGEST))
    predicted.save_annotation("scan", Annotation(np.array(predicted.prediction(RUN, "scan"))))
    annotation, prediction = predicted.annotation_file("scan"), predicted.prediction_file(RUN, "scan")
    clean = prediction.with_name("scan.cleaned.npz")
    contents = {path: path.read_bytes() for path in (annotation, prediction, clean)}

    def refusal(path: Path, by: Path, read: Callable[[], object]) -> str:
        path.write_bytes(contents[by])
        with pytest.raises(UserError) as error:
            read()
        path.write_bytes(contents[path])
        return code_of(error)

    for other in (prediction, clean):
        assert refusal(annotation, other, lambda: predicted.annotation("scan")) == "prediction"
    assert refusal(prediction, annotation, lambda: predicted.prediction(RUN, "scan")) == "annotation"
    assert refusal(prediction, clean, lambda: predicted.prediction(RUN, "scan")) == "outdated"
    for other in (annotation, prediction):
        assert refusal(clean, other, lambda: read_cleaned(predicted, RUN, "scan")) == "no-cleaned"
    read_cleaned(predicted, RUN, "scan")
