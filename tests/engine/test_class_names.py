"""Names of classes: what is refused, what a former project makes of it, and names that look like markup."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from medssl.cli import app
from medssl.cli.tables import scores_table
from medssl.cli.terminal import Drawing, console, warn
from medssl.core.errors import UserError
from medssl.core.events import Notice, Started
from medssl.core.labels.evaluate import Scores
from medssl.core.project.project import Annotation, LabelClass, Project
from project_parts import SHAPE, code_of
from rich.table import Table
from typer.testing import CliRunner

STRANGE = ("[/foo]", "[red]x", "=1+1", ":smile:", "\U0001fac0\u200d\U0001fac1", "\u200fكبد", "x" * 64, "a\\b")
REFUSED = {
    "": "Class 1",
    "   ": "Class 1",
    "x" * 65: "x" * 64,
    "a\nb": "a b",
    "a\x00": "a",
    "\x9b2J": "2J",
    "a\u2028b": "a b",
    "\u202eevil": "evil",
    "\ud800": "Class 1",
    " liver": "liver",
}
"""Names, and what they become in a project of a former version."""


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_name_is_a_name(tmp_path: Path, name: str) -> None:
    project = Project.create(tmp_path / "project", (LabelClass(1, name, "#000000"),))
    assert Project.open(project.root).classes[0].name == name


@pytest.mark.parametrize(("name", "becomes"), REFUSED.items(), ids=map(ascii, REFUSED))
def test_a_name_that_is_refused_does_not_block_a_former_project(
    tmp_path: Path, name: str, becomes: str
) -> None:
    project = Project.create(tmp_path / "project", (LabelClass(1, "old", "#000000"),))
    with pytest.raises(UserError, match="is no name for a class") as error:
        project.set_classes((LabelClass(1, name, "#000000"),))
    assert code_of(error) == "bad-classes"
    path = project.root / "project.json"
    path.write_text(path.read_text().replace('"old"', json.dumps(name)))
    assert Project.open(project.root).classes == (LabelClass(1, becomes, "#000000"),)


def test_init_refuses_a_name_before_it_makes_a_project(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no name"):
        CliRunner().invoke(app, ["init", str(tmp_path / "p"), "--classes", "a\nb"], catch_exceptions=False)
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("name", STRANGE)
def test_names_are_printed_as_they_are(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    screen = console()
    with Drawing(screen) as drawing:
        drawing.emit(Started(name, reasons=[name]))
        drawing.emit(Notice(f"Dice of {name}"))
    warn(screen, name)
    scores = Scores((LabelClass(1, name, "#000000"),), {name: {1: 0.5}})
    table = Table(name)
    table.add_row(name)
    results = console(stderr=False)
    results.width = 400
    results.print(scores_table(scores, {name: name}, name))
    results.print(table)
    captured = capsys.readouterr()
    assert captured.err.count(name) == 4 and captured.out.count(name) == 5


def test_class_names_that_look_like_markup_break_no_command(small_project: Project, tmp_path: Path) -> None:
    small_project.change_classes(
        lambda _: (LabelClass(1, "[/foo]", "#000000"), LabelClass(2, "=1+1", "#000000"))
    )
    small_project.save_annotation("scan", Annotation(np.ones(SHAPE, np.uint8)))
    root, out = str(small_project.root), tmp_path / "out"
    result = CliRunner().invoke(app, ["export", root, "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, "annotated everywhere, so no run is needed"
    with (out / "volumes.csv").open() as file:
        assert [row["class"] for row in csv.DictReader(file)] == ["[/foo]", "'=1+1"]
    (small_project.root / "runs" / "0001-finetune-x").mkdir(parents=True)
    (small_project.root / "runs" / "0001-finetune-x" / "job.json").write_bytes(b"\xff")
    small_project.annotation_file("scan").unlink()
    result = CliRunner().invoke(
        app, ["suggest", root, "--count", "1", "--device", "cpu"], catch_exceptions=False
    )
    assert result.exit_code == 0 and "scan" in result.stdout
