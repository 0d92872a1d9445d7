"""One damaged file blocks its own scan or run: everything else goes on, and what is passed over is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from medssl.cli.selection import choose_run
from medssl.core.errors import UserError
from medssl.core.events import Notice, Started, read_log, to_line
from medssl.core.features.landmarks import Landmark, Landmarks, write_landmarks
from medssl.core.jobs import ExportJob, FinetuneJob, PredictJob, SuggestJob
from medssl.core.project.damage import damaged_annotations, damaged_images, damaged_runs, survey
from medssl.core.project.project import Project
from medssl.tasks.active_learning.suggest import newest_weights
from small import Events, job_of, make_project, run

SHAPE = (12, 24, 24)
DAMAGED, GOOD, OPEN = "block-0", "block-1", "block-2"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scans, two of them annotated, and two fine-tunings."""
    project = make_project(tmp_path_factory.mktemp("made"), seeds=(0, 1, 2), shape=SHAPE, annotated=2)
    for _ in range(2):
        run(job_of("finetune-none", project, steps=2))
    return project.root


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Project:
    """A copy of it."""
    shutil.copytree(made, tmp_path / "project")
    return Project.open(tmp_path / "project")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def damage_image(project: Project, scan: str) -> None:
    """Damage the image of a scan and lose the file that it could be made from again."""
    truncate(project.root / "scans" / f"{scan}.npy")
    description = project.root / "project.json"
    description.write_text(description.read_text().replace(f"/{scan}.nii", f"/{scan}-lost.nii"))


def arrays(**changes: np.ndarray) -> Callable[[Path], None]:
    """Replaces arrays of an annotation."""

    def change(path: Path) -> None:
        with np.load(path) as stored:
            np.savez(path, **{**stored, **changes})

    return change


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": truncate,
    "text": lambda path: path.write_text("not an annotation"),
    "flat labels": arrays(labels=np.zeros(3, np.uint8)),
    "fractions": arrays(corner=np.full(3, 0.5)),
    "no shape": arrays(shape=np.array(7)),
    "another scan's": arrays(shape=np.array([99, 99, 99])),
    "a slice outside": arrays(complete=np.array([[0, 99]])),
    "objects": arrays(labels=np.array([None])),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_annotation_is_no_annotation_and_is_named(
    project: Project, damage: Callable[[Path], None]
) -> None:
    damage(project.annotation_file(DAMAGED))
    assert project.annotated() == (GOOD,)
    ((scan, error),) = damaged_annotations(project).items()
    assert scan == DAMAGED and str(project.annotation_file(DAMAGED)) in str(error)
    with pytest.raises(UserError):
        project.annotation(DAMAGED)
    state = survey(project)
    assert state.annotated == {GOOD} and list(map(str, state.damaged.values())) == [str(error)]
    assert len(state.runs) == 2 and not state.damaged_runs


def test_a_training_goes_on_with_the_other_annotations_and_says_so(project: Project) -> None:
    truncate(project.annotation_file(DAMAGED))
    events = Events()
    result = run(job_of("finetune-none", project, steps=2, predict_scans=(DAMAGED,)), events)
    assert isinstance(events[0], Started)
    (said,) = [event.text for event in events.of(Notice) if "damaged" in event.text]
    assert str(project.annotation_file(DAMAGED)) in said
    assert Notice(said) in read_log(project.run(result["run"]).folder / "events.jsonl")
    assert project.run(result["run"]).card["scans"] == [project.scans[GOOD].sha256]
    assert project.has_prediction(result["run"], DAMAGED), "its image is intact"


def test_where_all_annotations_are_damaged_the_first_is_the_reason(project: Project) -> None:
    for scan in (DAMAGED, GOOD):
        truncate(project.annotation_file(scan))
    with pytest.raises(UserError, match=f"{DAMAGED}.npz is damaged"):
        run(job_of("finetune-none", project))


def test_slices_are_suggested_of_the_other_scans(project: Project) -> None:
    truncate(project.annotation_file(DAMAGED))
    events = Events()
    result = run(SuggestJob(str(project.root), device="cpu", count=99), events)
    assert {each["scan"] for each in result["suggestions"]} == {GOOD, OPEN}
    assert list(result["left_out"]) == [DAMAGED]
    assert any(event.text == result["left_out"][DAMAGED] for event in events.of(Notice))


@pytest.mark.parametrize("named", [(), (DAMAGED, GOOD)])
def test_a_scan_whose_image_is_damaged_is_left_out_of_a_prediction(
    project: Project, named: tuple[str, ...]
) -> None:
    damage_image(project, DAMAGED)
    tuned = project.runs()[0].id
    result = run(PredictJob(str(project.root), device="cpu", weights=tuned, scans=named))
    assert result["scans"] == [
        scan for scan in project.scans if scan != DAMAGED and scan in (named or project.scans)
    ]
    assert (
        list(result["left_out"]) == [DAMAGED] == list(damaged_images(Project.open(project.root)))
        and not result["stopped"]
    )
    with pytest.raises(UserError, match=f"image of {DAMAGED} .* is missing or damaged"):
        run(PredictJob(str(project.root), device="cpu", weights=tuned, scans=(DAMAGED,)))


def test_a_training_goes_on_without_a_damaged_image(project: Project) -> None:
    damage_image(project, DAMAGED)
    events = Events()
    job = job_of("finetune-none", project, steps=2)
    assert isinstance(job, FinetuneJob)
    run(replace(job, predict_scans=(DAMAGED, OPEN)), events)
    assert sum(f"The image of {DAMAGED}" in event.text for event in events.of(Notice)) == 1


def test_an_export_goes_on_with_the_other_scans(project: Project, tmp_path: Path) -> None:
    truncate(project.annotation_file(DAMAGED))
    damage_image(project, GOOD)
    job = ExportJob(
        str(project.root), device="cpu", folder=str(tmp_path / "out"), weights=project.runs()[0].id
    )
    result = run(job)
    assert set(result["refused"]) == {DAMAGED, GOOD} and len(result["written"]) == 1
    result = run(ExportJob(str(project.root), folder=str(tmp_path / "painted")))
    assert set(result["refused"]) == {DAMAGED} and len(result["written"]) == 1


def test_a_damaged_card_or_job_file_blocks_its_run(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    older, newer = project.runs()
    (newer.folder / "card.json").write_bytes(b'{"step": "\xff"}')
    said: list[str] = []
    chosen = newest_weights(project, said.append)
    assert chosen is not None and chosen.id == older.id
    assert len(said) == 1 and str(newer.folder) in said[0]
    (newer.folder / "job.json").write_bytes(b"\0")
    assert choose_run(project, "last", ("finetune",)).id == older.id
    assert str(newer.folder / "job.json") in capsys.readouterr().err.replace("\n", "")
    assert [str(newer.folder) in str(error) for error in damaged_runs(project)] == [True]
    with pytest.raises(UserError, match="cannot be read as JSON"):
        choose_run(project, newer.id.partition("-")[0], ("finetune",))


def test_the_lines_of_a_log_that_are_intact_are_read(tmp_path: Path) -> None:
    lines = [
        to_line(Started("0001")).encode(),
        b"\xff" + to_line(Notice("a")).encode(),
        b'{"event": "notice", "te',
        *(b"\0\0\0", b'{"event": "unknown"}', b"[" * 10**5, b""),
        to_line(Notice("x" * 10**7)).encode(),
        to_line(Notice("b")).encode(),
    ]
    (tmp_path / "events.jsonl").write_bytes(b"\n".join(lines))
    events = read_log(tmp_path / "events.jsonl")
    assert [len(event.text) if isinstance(event, Notice) else 0 for event in events] == [0, 10**7, 1]


def test_damaged_landmarks_are_not_replaced_by_new_ones(project: Project) -> None:
    path = project.root / "landmarks.json"
    path.write_bytes(b'{"version": 1, "set": [')
    with pytest.raises(UserError, match=r"landmarks\.json"):
        write_landmarks(project, Landmarks((Landmark("tip", GOOD, (1, 2, 3)),)))
    assert path.read_bytes() == b'{"version": 1, "set": ['
