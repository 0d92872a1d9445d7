"""A file with the voxels of a scan that the project has: the scan is there once, and that is said."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from medssl.cli import app
from medssl.core.project.project import Project
from typer.testing import CliRunner


@pytest.fixture
def said(small_project: Project) -> list[str]:
    """What the project says from now on."""
    texts: list[str] = []
    small_project.on_notice = texts.append
    return texts


def test_a_copy_is_not_added_and_both_files_are_named(
    small_project: Project, said: list[str], tmp_path: Path
) -> None:
    source = Path(small_project.scans["scan"].source)
    copy = shutil.copy(source, tmp_path / "copy.nii")
    assert small_project.add_scan(copy).id == "scan"
    assert len(said) == 1 and str(source) in said[0] and str(copy) in said[0]
    assert list(small_project.scans) == ["scan"]


def test_the_file_itself_by_whatever_name_is_no_copy(
    small_project: Project, said: list[str], tmp_path: Path
) -> None:
    source = Path(small_project.scans["scan"].source)
    (tmp_path / "link.nii").symlink_to(source)
    small_project.add_scan(source)
    small_project.add_scan(tmp_path / "link.nii")
    assert not said


def test_a_file_that_was_moved_is_no_copy(small_project: Project, said: list[str], tmp_path: Path) -> None:
    source = Path(small_project.scans["scan"].source)
    small_project.add_scan(source.rename(tmp_path / "moved.nii"))
    assert not said


def test_init_says_which_of_its_files_are_copies(small_project: Project, tmp_path: Path) -> None:
    source = Path(small_project.scans["scan"].source)
    (tmp_path / "scans").mkdir()
    for name in ("a.nii", "b.nii"):
        shutil.copy(source, tmp_path / "scans" / name)
    words = ["init", str(tmp_path / "new"), str(tmp_path / "scans")]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "400"})
    assert result.exit_code == 0
    assert "b.nii has the same voxels as a " in result.output and "1 scan, 0 held out" in result.output
    assert "same voxels" not in CliRunner().invoke(app, [*words[:2], f"{words[2]}/a.nii"]).output
