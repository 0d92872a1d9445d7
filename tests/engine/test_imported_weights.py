"""Weights of another project: they segment and start trainings here, under the classes of this project."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from medssl.cli import app
from medssl.core.errors import UserError
from medssl.core.jobs import PredictJob
from medssl.core.labels.classes import add_classes, rename_class
from medssl.core.project.imported_weights import add_weights
from medssl.core.project.project import Project, Run
from medssl.core.project.run_state import run_state
from medssl.core.weights_file import read_card
from medssl.nn.models import checkpoint
from small import job_of, make_project, run
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Run]:
    """A project whose one class, "block", a network has learned."""
    project = make_project(tmp_path_factory.mktemp("there"), annotated=2)
    done = run(job_of("finetune", project, steps=30))
    return project, project.run(done["run"])


@pytest.fixture
def here(tmp_path: Path) -> Project:
    """A project of the same kind of scans without annotations, in which "block" has another id."""
    project = make_project(tmp_path, annotated=0)
    project.change_classes(lambda known: [])
    add_classes(project, ["spine", "block"])
    return project


def test_imported_weights_give_the_labels_of_their_own_project_under_the_ids_of_this_one(
    trained: tuple[Project, Run], here: Project
) -> None:
    there, source = trained
    imported = add_weights(here, source.folder)
    assert imported.id == "0001-finetune-imported"
    for project, each in ((there, source), (here, imported)):
        run(PredictJob(str(project.root), weights=each.id, device="cpu"))
    for scan in here.scans:
        expected = there.prediction(source.id, scan)
        assert expected is not None and expected.any()
        assert np.array_equal(here.prediction(imported.id, scan), 2 * expected)


def test_the_weights_are_the_same_and_their_file_is_whole(
    trained: tuple[Project, Run], here: Project
) -> None:
    imported = add_weights(here, trained[1].checkpoint)
    tensors, card = checkpoint.load(imported.checkpoint)
    expected, before = checkpoint.load(trained[1].checkpoint)
    assert list(tensors) == list(expected)
    assert all(np.array_equal(tensors[name].numpy(), expected[name].numpy()) for name in tensors)
    assert card == imported.card == read_card(imported.checkpoint)
    assert card["run"] == imported.id and card["plan"] == before["plan"]
    body = bytearray(imported.checkpoint.read_bytes())
    body[-1] ^= 1
    imported.checkpoint.write_bytes(body)
    with pytest.raises(UserError) as error:
        checkpoint.load(imported.checkpoint)
    assert error.value.code == "damaged-checkpoint"


def test_a_class_that_the_project_lacks_is_added(trained: tuple[Project, Run], here: Project) -> None:
    here.change_classes(lambda known: [item for item in known if item.name == "spine"])
    imported = add_weights(here, trained[1].folder)
    assert [item.name for item in here.classes] == ["spine", "block"]
    assert [item["id"] for item in imported.card["classes"]] == [here.classes[1].id]


def test_a_training_starts_from_imported_weights_and_does_not_resume_them(
    trained: tuple[Project, Run], tmp_path: Path
) -> None:
    project = make_project(tmp_path)
    imported = add_weights(project, trained[1].folder)
    assert run_state(project, imported).text == "finished"
    done = run(job_of("finetune", project, steps=2, weights=imported.id))
    assert project.run(done["run"]).checkpoint.exists()
    result = medssl("finetune", project.root, "--resume", imported.id, "--device", "cpu")
    assert result.exit_code == 1 and "Traceback" not in result.output


def test_a_pretraining_is_imported_too(tmp_path: Path) -> None:
    there = make_project(tmp_path / "there")
    done = run(job_of("pgl", there, steps=3))
    here = make_project(tmp_path / "here")
    imported = add_weights(here, there.run(done["run"]).folder)
    assert (imported.id, imported.kind) == ("0001-pretrain-imported", "pretrain")
    run(job_of("finetune", here, steps=2, weights=imported.id))


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, "missing"),
        (b"", "foreign-checkpoint"),
        (b"weights of another program", "foreign-checkpoint"),
    ],
)
def test_what_holds_no_weights_is_refused_and_leaves_nothing(
    here: Project, tmp_path: Path, content: bytes | None, code: str
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        add_weights(here, path)
    assert error.value.code == code and str(path) in str(error.value)
    assert not here.runs() and len(here.classes) == 2


def test_damaged_weights_are_refused_and_leave_nothing(
    trained: tuple[Project, Run], here: Project, tmp_path: Path
) -> None:
    body = bytearray(trained[1].checkpoint.read_bytes())
    for at in (9, len(body) // 2, len(body) - 1):
        damaged = body.copy()
        damaged[at] ^= 4
        (tmp_path / "weights.safetensors").write_bytes(damaged)
        with pytest.raises(UserError, match=r"weights\.safetensors"):
            add_weights(here, tmp_path / "weights.safetensors")
    assert not here.runs()


def test_the_command_adds_and_lists_them(trained: tuple[Project, Run], here: Project) -> None:
    result = medssl("runs", here.root, "--add", trained[1].folder)
    assert result.exit_code == 0, result.output
    assert "Added 0001-finetune-imported (block)." in result.output
    assert "finished" in result.output
    result = medssl("runs", here.root, "--add", here.root)
    assert result.exit_code == 1
    assert isinstance(result.exception, UserError) and result.exception.code == "missing"


def test_a_class_has_the_name_that_its_project_gives_it_now(
    trained: tuple[Project, Run], here: Project
) -> None:
    there, source = trained
    rename_class(there, 1, "spine")
    try:
        imported = add_weights(here, source.folder)
    finally:
        rename_class(there, 1, "block")
    assert imported.card["classes"] == [{"id": 1, "name": "spine"}]
    assert [item.name for item in here.classes] == ["spine", "block"]


def test_what_cannot_be_added_does_not_keep_the_command_from_the_others(
    trained: tuple[Project, Run], here: Project
) -> None:
    result = medssl("runs", here.root, "--add", here.root, "--add", trained[1].folder)
    assert result.exit_code == 1 and not isinstance(result.exception, UserError)
    assert "does not exist" in result.stderr and "Skipped 1;" in result.stderr
    assert [each.id for each in here.runs()] == ["0001-finetune-imported"]


def test_brackets_in_the_name_of_a_class_are_printed_as_they_are(
    trained: tuple[Project, Run], here: Project, tmp_path: Path
) -> None:
    tensors, card = checkpoint.load(trained[1].checkpoint)
    card["classes"][0]["name"] = "liver[left]"
    checkpoint.save(tmp_path / "weights.safetensors", tensors, card)
    result = medssl("runs", here.root, "--add", tmp_path / "weights.safetensors")
    assert "Added 0001-finetune-imported (liver[left])." in result.output


def medssl(*arguments: object):
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})
