"""Segmentations leave the project: on their grids, with records, with a table, bad ones left out."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pytest
from dicom_files import SHAPE, write_series
from medssl.core import json_files
from medssl.core.errors import UserError
from medssl.core.events import Notice, Progress
from medssl.core.export import provenance
from medssl.core.export.files import export_scan, may_write
from medssl.core.files import sha256_of
from medssl.core.jobs import ExportJob
from medssl.core.json_files import write_json
from medssl.core.project.project import Annotation, LabelClass, Project
from medssl.core.tables import csv_bytes, safe_cell
from medssl.tasks.export import export_scans
from project_parts import code_of, painted


@pytest.fixture
def dicom_project(small_project: Project, tmp_path: Path) -> Project:
    """The small project with a DICOM series, "series", painted in part, and a run that predicts class 1."""
    write_series(tmp_path / "series")
    small_project.add_scan(tmp_path / "series")
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:, 2:5] = 2
    small_project.save_annotation("series", Annotation(labels, ((0, 4), (2, 7))))
    run = small_project.new_run("finetune", {"job": "finetune"}, "from-random")
    run.checkpoint.write_bytes(b"weights")
    for scan in small_project.scans.values():
        small_project.save_prediction(run.id, scan.id, np.ones(scan.geometry.shape_zyx, np.uint8))
    return small_project


RUN = "0001-finetune-from-random"


def job(project: Project, folder: Path, **changes: object) -> ExportJob:
    return ExportJob(**{"project": str(project.root), "folder": str(folder), "weights": RUN, **changes})


def run_job(project: Project, wanted: ExportJob) -> tuple[dict, list]:
    said: list = []
    return export_scans(project, wanted, said.append, lambda: False), said


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# --- one scan ---------------------------------------------------------------------------------------


def test_dicom_in_dicom_seg_out(dicom_project: Project, tmp_path: Path) -> None:
    export_scan(dicom_project, "series", RUN, tmp_path / "out.dcm")
    volume = highdicom.seg.segread(tmp_path / "out.dcm").get_volume(combine_segments=True)
    geometry = dicom_project.scans["series"].geometry
    # highdicom gives the slices from the last one down, (slice, row, column).
    ours = geometry.to_source(dicom_project.segmentation("series", RUN)).T[::-1]
    assert np.array_equal(volume.array, ours)


def test_the_ending_asks_for_a_label_map(dicom_project: Project, tmp_path: Path) -> None:
    export_scan(dicom_project, "series", RUN, tmp_path / "series.labelmap.dcm")
    found = highdicom.seg.segread(tmp_path / "series.labelmap.dcm")
    assert found.segmentation_type == highdicom.seg.SegmentationTypeValues.LABELMAP
    result, _ = run_job(dicom_project, job(dicom_project, tmp_path / "out", ending="labelmap.dcm"))
    assert [Path(path).name for path in result["written"]] == ["series_segmentation.labelmap.dcm"]


def test_dicom_in_nifti_out_on_the_same_grid(dicom_project: Project, tmp_path: Path) -> None:
    export_scan(dicom_project, "series", RUN, tmp_path / "out.nii.gz")
    written, geometry = nibabel.load(tmp_path / "out.nii.gz"), dicom_project.scans["series"].geometry
    assert np.allclose(written.affine, geometry.matrix)
    segmentation = dicom_project.segmentation("series", RUN)
    assert np.array_equal(geometry.to_canonical(np.asarray(written.dataobj)), segmentation)


def test_a_scan_that_is_no_dicom_is_not_written_as_dicom_seg(dicom_project: Project, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"scan\.nii\.gz.*choose the format nii\.gz or nrrd") as error:
        export_scan(dicom_project, "scan", RUN, tmp_path / "out.dcm")
    assert code_of(error) == "not-dicom"
    assert not list(tmp_path.glob("out*"))


def test_a_series_that_is_gone_is_said(dicom_project: Project, tmp_path: Path) -> None:
    (tmp_path / "series").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="series") as error:
        export_scan(dicom_project, "series", RUN, tmp_path / "out.dcm")
    assert code_of(error) == "missing"
    export_scan(dicom_project, "series", RUN, tmp_path / "out.nrrd")


def test_another_series_on_the_same_grid_is_not_referred_to(dicom_project: Project, tmp_path: Path) -> None:
    write_series(tmp_path / "series", np.ones(SHAPE, np.int16).cumsum(0).astype(np.int16))
    with pytest.raises(UserError, match="has changed since it was added") as error:
        export_scan(dicom_project, "series", RUN, tmp_path / "out.dcm")
    assert code_of(error) == "changed"


@pytest.mark.parametrize("name", ["out.png", "out", "out.nii.zip"])
def test_an_ending_that_is_not_written_is_refused(dicom_project: Project, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="choose one of") as error:
        export_scan(dicom_project, "series", RUN, tmp_path / name)
    assert code_of(error) == "unsupported"


def test_the_record_says_what_made_the_file(dicom_project: Project, tmp_path: Path) -> None:
    export_scan(dicom_project, "series", RUN, tmp_path / "out.nrrd")
    record = json.loads((tmp_path / "out.nrrd.json").read_text())
    assert record["file"] == {"name": "out.nrrd", "sha256": sha256_of(tmp_path / "out.nrrd")}
    assert record["scan"]["sha256"] == dicom_project.scans["series"].sha256
    assert record["annotation"]["complete_slices"] == {"axial": [4], "coronal": [], "sagittal": [7]}
    assert record["prediction"]["run"] == RUN
    assert record["prediction"]["weights_sha256"] == sha256_of(dicom_project.run(RUN).checkpoint)
    assert {"medssl", "torch", "highdicom"} <= set(record["versions"])
    assert str(tmp_path) not in json.dumps(record)


def test_what_is_only_painted_has_a_record_without_weights(small_project: Project, tmp_path: Path) -> None:
    small_project.save_annotation("scan", Annotation(painted()))
    export_scan(small_project, "scan", None, tmp_path / "out.nii.gz")
    record = json.loads((tmp_path / "out.nii.gz.json").read_text())
    assert record["prediction"] is None
    assert record["annotation"]["painted_voxels"] == np.count_nonzero(painted())


def test_volumes_are_voxels_times_their_size(dicom_project: Project, tmp_path: Path) -> None:
    one, two = export_scan(dicom_project, "series", RUN, tmp_path / "out.nii.gz")
    values = dicom_project.segmentation("series", RUN)
    assert (one.voxels, two.voxels) == (np.sum(values == 1), np.sum(values == 2))
    assert two.ml == pytest.approx(np.sum(values == 2) * 3 * 2 * 1.5 / 1000, abs=1e-6)


def test_a_tilted_grid_has_the_volume_of_its_parallelepipeds(small_project: Project, tmp_path: Path) -> None:
    write_series(tmp_path / "tilted", step=(0.0, 1.2, 3.0))
    small_project.add_scan(tmp_path / "tilted")
    small_project.save_annotation("tilted", Annotation(np.ones(SHAPE, np.uint8)))
    one, _ = export_scan(small_project, "tilted", None, tmp_path / "out.nii.gz")
    assert one.ml == pytest.approx(np.prod(SHAPE) * 3 * 2 * 1.5 / 1000, abs=1e-6)


def test_a_class_that_the_project_has_dropped_is_still_exported(
    dicom_project: Project, tmp_path: Path
) -> None:
    dicom_project.set_classes((LabelClass(1, "one", "#000000"),))
    export_scan(dicom_project, "series", RUN, tmp_path / "out.dcm")
    segments = highdicom.seg.segread(tmp_path / "out.dcm").SegmentSequence
    assert [each.SegmentLabel for each in segments] == ["one", "Class 2"]


# --- all scans --------------------------------------------------------------------------------------


def test_all_scans_get_a_file_a_record_and_rows_in_one_table(dicom_project: Project, tmp_path: Path) -> None:
    result, said = run_job(dicom_project, job(dicom_project, tmp_path / "out"))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    files = {"scan_segmentation.nii.gz", "series_segmentation.nii.gz"}
    assert names == {*files, *(f"{name}.json" for name in files), "volumes.csv", "volumes.csv.json"}
    rows = rows_of(tmp_path / "out" / "volumes.csv")
    assert [(row["scan"], row["class"]) for row in rows] == [
        ("scan", "one"), ("scan", "two"), ("series", "one"), ("series", "two")
    ]  # fmt: skip
    assert int(rows[0]["voxels"]) == np.prod(dicom_project.scans["scan"].geometry.shape_zyx)
    assert [event.fraction for event in said if isinstance(event, Progress)] == [0.5, 1.0]
    assert not result["stopped"] and len(result["written"]) == 2


def test_one_scan_that_cannot_be_written_is_named_and_the_others_go_on(
    dicom_project: Project, tmp_path: Path
) -> None:
    result, said = run_job(dicom_project, job(dicom_project, tmp_path / "out", ending="dcm"))
    assert [Path(path).name for path in result["written"]] == ["series_segmentation.dcm"]
    assert set(result["refused"]) == {"scan"}
    first = next(event.text for event in said if isinstance(event, Notice))
    assert first.startswith("scan (scan.nii.gz) was not read from DICOM")
    assert {row["scan"] for row in rows_of(tmp_path / "out" / "volumes.csv")} == {"series"}


def test_scans_that_are_no_dicom_are_refused_in_one_sentence(dicom_project: Project, tmp_path: Path) -> None:
    for index in range(2):
        nibabel.save(
            nibabel.Nifti1Image(np.arange(64.0).reshape(4, 4, 4) * (index + 1), np.eye(4)),
            tmp_path / f"{index}.nii",
        )
        dicom_project.add_scan(tmp_path / f"{index}.nii")
    result, said = run_job(dicom_project, job(dicom_project, tmp_path / "out", ending="dcm"))
    assert set(result["refused"]) == {"scan", "0", "1"}
    refusals = [event.text for event in said if isinstance(event, Notice) and "DICOM-SEG" in event.text]
    assert len(refusals) == 1 and "scan (scan.nii.gz) and 2 more of 4 scans were" in refusals[0]
    only_nifti = job(dicom_project, tmp_path / "out", ending="dcm", scans=("0", "1"))
    with pytest.raises(UserError, match=r"0 .0.nii. and 1 more of 2 scans were not read from DICOM"):
        run_job(dicom_project, only_nifti)


def test_a_file_of_somebody_else_is_not_written_over(dicom_project: Project, tmp_path: Path) -> None:
    theirs = tmp_path / "out" / "scan_segmentation.nii.gz"
    theirs.parent.mkdir()
    theirs.write_bytes(b"drawn by hand")
    for _ in range(2):  # the second time our own file is there, which may be replaced
        result, _ = run_job(dicom_project, job(dicom_project, tmp_path / "out"))
        assert set(result["refused"]) == {"scan"} and len(result["written"]) == 1
    assert theirs.read_bytes() == b"drawn by hand"
    assert may_write(tmp_path / "out" / "series_segmentation.nii.gz")


def test_without_a_run_only_what_is_painted_is_exported(dicom_project: Project, tmp_path: Path) -> None:
    result, _ = run_job(dicom_project, job(dicom_project, tmp_path / "out", weights=None))
    assert [Path(path).name for path in result["written"]] == ["series_segmentation.nii.gz"]
    values = np.asarray(nibabel.load(result["written"][0]).dataobj)
    assert set(np.unique(values)) == {0, 2}


def test_a_stopped_export_leaves_whole_files_and_their_table(dicom_project: Project, tmp_path: Path) -> None:
    said: list = []
    result = export_scans(dicom_project, job(dicom_project, tmp_path), said.append, lambda: len(said) > 1)
    assert result["stopped"] and len(result["written"]) == 1
    assert {row["scan"] for row in rows_of(tmp_path / "volumes.csv")} == {"scan"}


def test_where_nothing_can_be_written_the_export_fails_in_one_sentence(
    dicom_project: Project, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="not read from DICOM"):
        run_job(dicom_project, job(dicom_project, tmp_path, scans=("scan",), ending=".dcm"))
    assert not (tmp_path / "volumes.csv").exists()


# --- only what was exported is replaced ----------------------------------------------------------------


def export_again(project: Project, folder: Path, **changes: object) -> tuple[dict, list]:
    """Another class everywhere in the prediction, so that files differ, and an export."""
    for scan in project.scans.values():
        project.save_prediction(RUN, scan.id, np.full(scan.geometry.shape_zyx, 2, np.uint8))
    return run_job(project, job(project, folder, **changes))


@pytest.mark.parametrize("name", ["scan_segmentation.nii.gz", "scan_segmentation.nii.gz.json", "volumes.csv"])
@pytest.mark.parametrize("exported_before", [True, False])
def test_files_of_others_and_changed_files_are_kept_and_the_rest_is_exported(
    dicom_project: Project, tmp_path: Path, name: str, exported_before: bool
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if exported_before:
        run_job(dicom_project, job(dicom_project, out))
    (out / name).write_bytes(b"[1, 2]")
    result, said = export_again(dicom_project, out)
    key = "volumes.csv" if name == "volumes.csv" else "scan"
    assert (out / name).read_bytes() == b"[1, 2]"
    assert list(result["refused"]) == [key] and not result["stopped"]
    assert len(result["written"]) == (2 if name == "volumes.csv" else 1)
    assert name in result["refused"][key] and "--overwrite" in result["refused"][key]
    assert any(event.text == result["refused"][key] for event in said if isinstance(event, Notice))
    result, _ = export_again(dicom_project, out, overwrite=True)
    assert not result["refused"] and (out / name).read_bytes() != b"[1, 2]"


def test_a_segmentation_of_another_scan_of_that_name_is_kept(dicom_project: Project, tmp_path: Path) -> None:
    export_scan(dicom_project, "scan", RUN, tmp_path / "out.nii.gz")
    with pytest.raises(UserError, match="another scan") as error:
        export_scan(dicom_project, "series", RUN, tmp_path / "out.nii.gz")
    assert code_of(error) == "exists"


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("writes", range(1, 7))
@pytest.mark.parametrize("exported_before", [True, False])
def test_an_export_that_was_killed_goes_on(
    dicom_project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    writes: int,
    exported_before: bool,
) -> None:
    """Killed before each of the six files that two scans and their table are written to."""
    if exported_before:
        run_job(dicom_project, job(dicom_project, tmp_path / "out"))
    done = 0
    whole = provenance.write_whole

    def write_or_die(path: Path, write: object) -> None:
        nonlocal done
        done += 1
        if done == writes:
            raise Killed
        whole(path, write)

    with monkeypatch.context() as patched:
        patched.setattr(provenance, "write_whole", write_or_die)
        patched.setattr(json_files, "write_whole", write_or_die)
        with pytest.raises(Killed):
            export_again(dicom_project, tmp_path / "out")
    result, _ = export_again(dicom_project, tmp_path / "out")
    assert not result["refused"] and len(result["written"]) == 2
    for path in (*result["written"], tmp_path / "out" / "volumes.csv"):
        record = json.loads(Path(f"{path}.json").read_text())
        assert record["file"]["sha256"] == sha256_of(Path(path))


def test_a_second_export_of_other_scans_extends_the_table(dicom_project: Project, tmp_path: Path) -> None:
    run_job(dicom_project, job(dicom_project, tmp_path, scans=("series",)))
    run_job(dicom_project, job(dicom_project, tmp_path, scans=("scan",)))
    rows = rows_of(tmp_path / "volumes.csv")
    assert [row["scan"] for row in rows] == ["series", "series", "scan", "scan"]
    export_again(dicom_project, tmp_path, scans=("series",))
    after = rows_of(tmp_path / "volumes.csv")
    assert [row["scan"] for row in after] == ["series", "series", "scan", "scan"]
    assert after[2:] == rows[2:] and after[:2] != rows[:2]


# --- names ------------------------------------------------------------------------------------------


def test_records_hold_no_names_and_paths_unless_asked(dicom_project: Project, tmp_path: Path) -> None:
    run = dicom_project.new_run(
        "finetune", {"job": "finetune", "project": "/home/jane", "predict_scans": ["scan"]}, "named"
    )
    run.checkpoint.write_bytes(b"weights")
    fingerprint = dicom_project.scans["series"].sha256
    write_json(run.folder / "card.json", {"scans": ["scan", fingerprint, "no-longer-there"]})
    for scan in dicom_project.scans.values():
        dicom_project.save_prediction(run.id, scan.id, np.ones(scan.geometry.shape_zyx, np.uint8))
    for with_names in (False, True):
        path = tmp_path / f"{with_names}.nii.gz"
        export_scan(dicom_project, "series", run.id, path, with_names=with_names)
        text = (tmp_path / f"{with_names}.nii.gz.json").read_text()
        named = [name in text for name in ("/home/jane", "no-longer-there", str(tmp_path), '"scan"]')]
        assert named == [with_names] * 3 + [False]
        record = json.loads(text)
        both = ["scan", "series", "no-longer-there"]
        hashes = [dicom_project.scans["scan"].sha256, fingerprint]
        assert record["prediction"]["trained_on"] == (both if with_names else hashes)
        assert record["scan"].get("id") == ("series" if with_names else None)


# --- no prediction is needed --------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["voxels", "slices"])
@pytest.mark.parametrize("weights", [RUN, None])
def test_a_scan_that_is_annotated_everywhere_needs_no_prediction(
    dicom_project: Project, tmp_path: Path, how: str, weights: str | None
) -> None:
    dicom_project.prediction_file(RUN, "series").unlink()
    labels = np.full(SHAPE, 255 if how == "voxels" else 0, np.uint8)
    labels[3:, 2:5] = 2
    complete = () if how == "voxels" else tuple((1, row) for row in range(SHAPE[1]))
    dicom_project.save_annotation("series", Annotation(labels, complete))
    wanted = job(dicom_project, tmp_path / "out", weights=weights, scans=("series",), largest=True)
    result, _ = run_job(dicom_project, wanted)
    (path,) = result["written"]
    written = dicom_project.scans["series"].geometry.to_canonical(np.asarray(nibabel.load(path).dataobj))
    assert np.array_equal(written == 2, labels == 2) and not (written == 1).any()
    assert json.loads(Path(f"{path}.json").read_text())["prediction"] is None


# --- tilted grids -------------------------------------------------------------------------------------


def test_a_tilted_series_is_written_with_a_warning_that_names_nrrd(
    dicom_project: Project, tmp_path: Path
) -> None:
    write_series(tmp_path / "tilted", step=(0.0, 1.2, 3.0))
    dicom_project.add_scan(tmp_path / "tilted")
    dicom_project.save_prediction(RUN, "tilted", np.ones(SHAPE, np.uint8))
    for ending, warned in ((".nii.gz", True), (".nrrd", False), (".dcm", False)):
        wanted = job(dicom_project, tmp_path / "out", scans=("tilted",), ending=ending)
        result, said = run_job(dicom_project, wanted)
        assert len(result["written"]) == 1 and not result["refused"]
        texts = [event.text for event in said if isinstance(event, Notice) and ".nrrd" in event.text]
        assert bool(texts) == warned and all("tilted" in text for text in texts)


# --- spreadsheets -------------------------------------------------------------------------------------


def test_a_name_with_a_comma_stays_one_cell(dicom_project: Project, tmp_path: Path) -> None:
    dicom_project.change_classes(
        lambda _: (LabelClass(1, 'left, "upper"', "#000000"), LabelClass(2, "Gefäß", "#000000"))
    )
    run_job(dicom_project, job(dicom_project, tmp_path, scans=("series",)))
    assert [row["class"] for row in rows_of(tmp_path / "volumes.csv")] == ['left, "upper"', "Gefäß"]


def test_a_name_that_is_a_formula_is_text_and_comes_back_when_the_table_is_extended(
    dicom_project: Project, tmp_path: Path
) -> None:
    dicom_project.change_classes(
        lambda _: (LabelClass(1, "=cmd|'/c calc'!A1", "#000000"), LabelClass(2, "+1", "#000000"))
    )
    run_job(dicom_project, job(dicom_project, tmp_path, scans=("series",)))
    run_job(dicom_project, job(dicom_project, tmp_path, scans=("scan",)))
    names = [row["class"] for row in rows_of(tmp_path / "volumes.csv")]
    assert names == ["'=cmd|'/c calc'!A1", "+1"] * 2


@pytest.mark.parametrize(
    "value, cell",
    [
        ("=1+1", "'=1+1"), ("+a", "'+a"), ("-a", "'-a"), ("@SUM(A1)", "'@SUM(A1)"), ("\t=1", "' =1"),
        ("x\r\n=1", "x  =1"), (" =1+1", "' =1+1"), ("\uff1d1+1", "'\uff1d1+1"), ("-3.20", "-3.20"),
        (-5, "-5"), (-0.5, "-0.5"), ("+1+1", "'+1+1"), ("-1-1|cmd", "'-1-1|cmd"),
        ("a=1", "a=1"), ("'=1", "'=1"),
    ],
)  # fmt: skip
def test_cells_that_a_spreadsheet_would_execute_begin_with_an_apostrophe(value: object, cell: str) -> None:
    assert safe_cell(value) == cell
    assert list(csv.reader(csv_bytes(("a",), [(value,)]).decode().splitlines(keepends=True)))[1] == [cell]
