"""Removing and renaming scans, deleting runs: nothing painted is lost, and a killed process does no harm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from medssl.core.errors import UserError
from medssl.core.events import Done, Started, to_line
from medssl.core.features.landmarks import Landmark, Landmarks, read_landmarks, write_landmarks
from medssl.core.features.similarity import has_features, write_features
from medssl.core.json_files import write_json
from medssl.core.labels.classes import used_ids
from medssl.core.project.disk_usage import disk_usage, size_text
from medssl.core.project.kept import FOLDER
from medssl.core.project.locks import training_lock
from medssl.core.project.project import Annotation, Project
from medssl.core.project.removal import delete_run, remove_scan
from medssl.core.project.run_state import run_state
from medssl.core.project.stroke_log import StrokeLog, journal_file
from medssl.core.project.stroke_records import Stroke
from project_parts import SHAPE, code_of, painted

CUBE = np.ones((2, 2, 2, 32), np.float16)


class Killed(BaseException):
    """As if the process ended here."""


def save_volume(path: Path, seed: int) -> Path:
    """A small scan of noise, in a folder that is made for it."""
    path.parent.mkdir(exist_ok=True)
    values = np.random.default_rng(seed).gamma(2, 100, (8, 8, 8)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    return path


@pytest.fixture
def project(small_project: Project, tmp_path: Path) -> Project:
    """Scans "scan", painted, and "scan-2"; a run has predicted both and computed their features."""
    small_project.add_scan(save_volume(tmp_path / "b" / "scan-2.nii", seed=5))
    small_project.save_annotation("scan", Annotation(painted(), ((0, 5),)))
    run = small_project.new_run("finetune", {"job": "finetune"}, "x")
    run.checkpoint.write_bytes(b"weights")
    for scan in small_project.scans.values():
        small_project.save_prediction(run.id, scan.id, np.zeros(scan.geometry.shape_zyx, np.uint8))
        for name in (run.id, "shapes"):
            write_features(small_project, scan.id, name, CUBE, (8, 8, 8), weights_sha256="w")
    points = (Landmark("tip", "scan", (1, 1, 1)), Landmark("tip", "scan-2", (1, 1, 1)))
    write_landmarks(small_project, Landmarks(points))
    return small_project


def files_of(project: Project) -> set[str]:
    return {str(path.relative_to(project.root)) for path in project.root.rglob("*") if path.is_file()}


def test_features_belong_to_the_run_whose_whole_name_their_file_has(project: Project) -> None:
    """Runs that began from the shipped weights, "shapes", end like these."""
    run = project.new_run("finetune", {"job": "finetune"}, "from-shapes")
    write_features(project, "scan", run.id, CUBE, (8, 8, 8), weights_sha256="w")
    write_features(project, "scan-2", run.id, CUBE, (8, 8, 8), weights_sha256="w")
    remove_scan(project, "scan-2")
    delete_run(project, run.id)
    left = {path.name for path in (project.root / "features").glob(f"*-{run.id}.*")}
    assert not left and has_features(project, "scan", "shapes")


def test_a_removed_scan_takes_along_what_was_computed_from_it_and_nothing_of_another(
    project: Project,
) -> None:
    before = files_of(project)
    remove_scan(project, "scan")
    assert list(Project.open(project.root).scans) == ["scan-2"]
    gone = {path for path in before if Path(path).name.startswith("scan.") or "/scan-shapes" in f"/{path}"}
    gone |= {path for path in before if "features/scan-0001" in path}
    kept = {f"{FOLDER}/scan/scan.npz", f"{FOLDER}/scan/scan.json"}
    assert files_of(project) == before - gone | kept
    assert has_features(project, "scan-2", "shapes") and project.has_prediction("0001-finetune-x", "scan-2")
    assert [point.scan for point in read_landmarks(project).points] == ["scan-2"]


def test_the_annotation_is_kept_and_comes_back_with_the_scan(project: Project, scan_file: Path) -> None:
    strokes = StrokeLog(journal_file(project.root, "scan"), SHAPE)
    strokes.append(Stroke(np.array([3]), np.array([2], np.uint8), ()))
    folder = remove_scan(project, "scan")
    assert folder == project.root / FOLDER / "scan"
    assert not (project.root / "annotations" / "scan.npz").exists()
    said: list[str] = []
    project.on_notice = said.append
    scan = project.add_scan(scan_file)
    annotation = project.annotation(scan.id)
    assert annotation is not None and np.array_equal(annotation.labels, painted())
    assert annotation.complete == ((0, 5),)
    assert len(StrokeLog(journal_file(project.root, scan.id), SHAPE).read().strokes) == 1
    assert not folder.exists() and scan.id in said[0]


def test_another_scan_does_not_get_the_annotation_of_a_removed_one(project: Project, tmp_path: Path) -> None:
    remove_scan(project, "scan")
    scan = project.add_scan(save_volume(tmp_path / "new" / "scan.nii", seed=9))
    assert scan.id == "scan" and project.annotation("scan") is None
    project.save_annotation("scan", Annotation(np.ones(scan.geometry.shape_zyx, np.uint8)))
    assert remove_scan(project, "scan") == project.root / FOLDER / "scan-2"


def test_an_unpainted_scan_leaves_nothing(project: Project) -> None:
    assert remove_scan(project, "scan-2") is None
    assert not any("scan-2" in path for path in files_of(project))


@contextmanager
def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ends the process at the n-th change of a file or folder."""
    done = 0

    def counted(name: str) -> None:
        plain = getattr(Path, name)

        def change(self: Path, *given: Any, **named: Any) -> Any:
            nonlocal done
            done += 1
            if done > step:
                raise Killed
            return plain(self, *given, **named)

        patch.setattr(Path, name, change)

    with monkeypatch.context() as patch:
        for name in ("replace", "rename", "mkdir", "unlink"):
            counted(name)
        yield


def test_a_kill_at_any_moment_of_a_removal_loses_nothing(
    project: Project, scan_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scan is in the project as it was, or it is not and comes back with its annotation."""
    outcomes = set()
    for step in range(100):
        try:
            with killed_at(step, monkeypatch):
                remove_scan(project, "scan")
            break
        except Killed:
            pass
        opened = Project.open(project.root)
        opened.remove_unfinished()
        outcomes.add("scan" in opened.scans)
        if "scan" in opened.scans:
            assert opened.image("scan").shape == SHAPE
        scan = opened.add_scan(scan_file)
        annotation = opened.annotation(scan.id)
        assert annotation is not None and np.array_equal(annotation.labels, painted()), step
        if scan.id != "scan":  # its files are still there; a new one starts from the former state
            remove_scan(opened, scan.id)
            for path in [path for path in opened.root.rglob("scan.*") if FOLDER not in path.parts]:
                path.unlink()
            assert opened.add_scan(scan_file).id == "scan"
        project = opened
    else:
        pytest.fail("the removal never came to its end")
    assert outcomes == {True, False}


def test_no_scan_goes_while_a_training_may_use_it(project: Project) -> None:
    run = project.runs()[0]
    with training_lock(run.folder):
        with pytest.raises(UserError, match="is being trained") as error:
            remove_scan(project, "scan")
        with pytest.raises(UserError, match="is being trained"):
            delete_run(project, run.id)
        assert run_state(project, run).text == "being trained"
    assert code_of(error) == "locked"
    assert "scan" in Project.open(project.root).scans and run.folder.exists()


def test_a_deleted_run_takes_along_its_features_and_nothing_else(project: Project) -> None:
    before, run = files_of(project), project.runs()[0]
    delete_run(project, run.id)
    assert files_of(project) == {path for path in before if run.id not in path}
    assert has_features(project, "scan", "shapes") and project.runs() == []


def test_a_kill_while_a_run_is_deleted_leaves_none_or_all_of_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = project.runs()[0]
    monkeypatch.setattr("medssl.core.project.removal.shutil.rmtree", lambda *given, **named: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        delete_run(project, run.id)
    monkeypatch.undo()
    assert Project.open(project.root).runs() == []
    monkeypatch.setattr("medssl.core.temporary_files._abandoned", lambda *about: True)
    project.remove_unfinished()
    assert list((project.root / "runs").glob(".*")) == []


def test_weights_from_which_an_unfinished_run_began_are_needed(project: Project) -> None:
    first = project.runs()[0].id
    later = project.new_run("finetune", {"job": "finetune", "weights": first}, "from")
    later.checkpoint.touch()
    with pytest.raises(UserError, match=later.id) as error:
        delete_run(project, first)
    assert code_of(error) == "needed"
    (later.folder / "events.jsonl").write_text(
        "".join(to_line(e) + "\n" for e in (Started(later.id), Done()))
    )
    delete_run(project, first)
    assert [run.id for run in project.runs()] == [later.id]


def test_the_shipped_weights_cannot_be_deleted(project: Project) -> None:
    with pytest.raises(UserError, match="weights that ship"):
        delete_run(project, "shapes")


def test_ids_of_classes_in_a_kept_annotation_are_not_given_to_new_classes(project: Project) -> None:
    project.save_annotation("scan", Annotation(painted(7)))
    remove_scan(project, "scan")
    assert 7 in used_ids(project)


# --- names -------------------------------------------------------------------------------------------


def test_a_renamed_scan_keeps_its_id_and_all_that_belongs_to_it(project: Project) -> None:
    before = files_of(project)
    project.rename_scan("scan", "Patient 7, pre-op")
    opened = Project.open(project.root)
    assert opened.scans["scan"].title == "Patient 7, pre-op"
    assert opened.scan_named("Patient 7, pre-op").id == opened.scan_named("scan").id == "scan"
    assert files_of(project) == before and opened.has_prediction("0001-finetune-x", "scan")
    assert opened.annotated() == ("scan",)
    opened.rename_scan("scan", "scan")
    assert opened.scans["scan"].name == ""


@pytest.mark.parametrize("name", ["", " a", "a/b", "a\nb", ".hidden", "-x", "con", "a" * 65, "what?"])
def test_a_name_that_no_file_can_have_is_refused(project: Project, name: str) -> None:
    with pytest.raises(UserError) as error:
        project.rename_scan("scan", name)
    assert code_of(error) == "bad-name" and project.scans["scan"].title == "scan"


@pytest.mark.parametrize("name", ["scan-2", "SCAN-2", "Other name"])
def test_two_scans_have_no_name_in_common(project: Project, name: str) -> None:
    project.rename_scan("scan-2", "other name")
    with pytest.raises(UserError) as error:
        project.rename_scan("scan", name)
    assert code_of(error) == "same-name"


def test_a_new_scan_gets_no_id_that_is_another_ones_name(project: Project, tmp_path: Path) -> None:
    project.rename_scan("scan", "fresh")
    assert project.add_scan(save_volume(tmp_path / "fresh.nii", seed=9)).id == "fresh-2"


# --- sizes -------------------------------------------------------------------------------------------


def test_scans_and_runs_weigh_what_goes_with_them(project: Project) -> None:
    before = disk_usage(project)
    assert before.total >= (project.root / "scans" / "scan.npy").stat().st_size
    weight, run = before.scans["scan-2"], project.runs()[0].id
    assert weight > 0 and before.runs[run] > 0
    remove_scan(project, "scan-2")
    after = disk_usage(project)
    json = 4096  # project.json and landmarks.json have become shorter
    assert 0 <= before.total - after.total - weight <= json
    write_json(project.root / "notes.json", {})
    weight = disk_usage(project).runs[run]
    total = disk_usage(project).total
    delete_run(project, run)
    assert total - disk_usage(project).total == weight


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 kB"), (1499, "1 kB"), (5.3e6, "5.3 MB"), (64e6, "64 MB"), (2.5e12, "2.5 TB")],
)
def test_sizes_are_written_for_people(size: float, text: str) -> None:
    assert size_text(size) == text
