"""What a command could know before it computes, it refuses before."""

from __future__ import annotations

from pathlib import Path

import pytest
from medssl.cli import app, terminal
from medssl.core.errors import UserError
from medssl.core.files import check_writable
from medssl.core.jobs import ExportJob
from medssl.core.project.project import Project
from small import SHAPE, Events, job_of, make_project, run
from typer.testing import CliRunner


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Two scans and a fine-tuning that has predicted neither."""
    made = make_project(tmp_path, seeds=(0, 1), shape=SHAPE)
    run(job_of("finetune", made, steps=1))
    return made


def no_predictions(project: Project) -> bool:
    return not list(project.root.glob("runs/*/predictions/*.npz"))


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "run_job", lambda *given: pytest.fail("a job was started"))


def refused(*arguments: object) -> UserError:
    error = CliRunner().invoke(app, [str(each) for each in arguments]).exception
    assert isinstance(error, UserError), error
    return error


@pytest.mark.usefixtures("nothing_runs")
def test_a_format_that_no_scan_can_have(tmp_path: Path, project: Project) -> None:
    error = refused("predict", project.root, "--out", tmp_path / "out", "--format", "dcm")
    assert error.code == "not-dicom" and "not read from DICOM" in str(error)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "PROJECT", "--out", "FILE/out"),
        ("evaluate", "PROJECT", "--labels", ".", "--json", "FILE/scores.json"),
        ("suggest", "PROJECT", "--json", "FILE/slices.json"),
        ("similarity", "PROJECT", "SCAN", "2", "2", "2", "--out", "FILE/map.nii.gz"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_place_that_cannot_be_written_to(
    tmp_path: Path, project: Project, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "file").touch()
    places = {"PROJECT": str(project.root), "SCAN": next(iter(project.scans))}
    given = [places.get(each, each.replace("FILE", str(tmp_path / "file"))) for each in arguments]
    assert refused(*given).code == "not-writable"
    assert no_predictions(project)


def test_a_folder_for_an_export_that_cannot_be_written_to(tmp_path: Path, project: Project) -> None:
    (tmp_path / "file").touch()
    weights = project.runs("finetune")[0].id
    job = ExportJob(str(project.root), folder=str(tmp_path / "file" / "out"), weights=weights)
    with pytest.raises(UserError) as error:
        run(job, Events())
    assert error.value.code == "not-writable" and no_predictions(project)


def test_a_file_outside_the_project_that_cannot_be_segmented_into_its_place(
    tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "run_job", lambda *given: pytest.fail("a job was started"))
    (tmp_path / "file").touch()
    source = Path(next(iter(project.scans.values())).source)
    scan = source.rename(tmp_path / f"other_{source.name}")
    assert refused("predict", project.root, scan, "--out", tmp_path / "file" / "out").code == "not-writable"


def test_a_table_of_another_program_is_named_before_scans_are_predicted(
    tmp_path: Path, project: Project
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "volumes.csv").write_text("mine")
    weights, events = project.runs("finetune")[0].id, Events()
    run(ExportJob(str(project.root), folder=str(tmp_path / "out"), weights=weights), events)
    kinds = [type(event).__name__ for event in events]
    assert kinds.index("Notice") < kinds.index("Preview")
    assert (tmp_path / "out" / "volumes.csv").read_text() == "mine"


def test_a_check_leaves_a_folder_and_nothing_in_it(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b" / "file.json")
    assert not list((tmp_path / "a" / "b").iterdir())
