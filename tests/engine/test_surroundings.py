"""Where results come from, and how they are written: commit, machines, JSON lines, tables."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from medssl.benchmarking.report import markdown_table
from medssl.benchmarking.results_log import append_records, read_records
from medssl.benchmarking.surroundings import Origin, describe_origins
from medssl.core.environment import CODE, commit_of
from medssl.core.errors import UserError


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git repository with a file in each folder of code and in docs."""
    for folder in (*CODE, "docs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text("1")
    name = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for arguments in (("init", "-q"), ("add", "."), (*name, "commit", "-q", "-m", "a")):
        subprocess.run(["git", "-C", tmp_path, *arguments], check=True)
    return tmp_path


@pytest.mark.parametrize("folder", [*CODE, "docs"])
def test_a_commit_with_changed_code_is_marked(checkout: Path, folder: str) -> None:
    clean = commit_of(checkout)
    assert clean and not clean.endswith("+")
    (checkout / folder / "a.py").write_text("22")
    assert commit_of(checkout) == (clean if folder == "docs" else f"{clean}+")


def test_an_installed_package_has_no_commit(tmp_path: Path) -> None:
    assert commit_of(tmp_path) is None


def test_one_origin_is_named_and_several_are_counted() -> None:
    day, machine = date(2026, 11, 28), "a CPU, torch 2, 1 thread"
    origins = [Origin(day, machine, "a")] * 2
    assert describe_origins(origins, "cell") == f"2 cells, 28 November 2026; {machine}; commit a"
    origins.append(Origin(date(2026, 11, 29), "a GPU", "b"))
    assert describe_origins(origins, "cell") == (
        f"3 cells, 28 November 2026 to 29 November 2026; {machine} (2 cells), a GPU (1 cell); "
        "commit a (2 cells), b (1 cell)"
    )


def test_a_viewer_learns_of_its_machine_without_torch() -> None:
    code = (
        "import sys; from medssl.benchmarking.surroundings import surroundings; "
        "assert surroundings('cpu')['torch']; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_records_are_appended_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lines.jsonl"
    assert read_records(path) == []
    append_records(path, [{"a": 1}, {"a": None}])
    append_records(path, [{"b": [2.5, "ü"]}])
    assert read_records(path) == [{"a": 1}, {"a": None}, {"b": [2.5, "ü"]}]
    path.write_text(path.read_text() + "{")
    with pytest.raises(UserError, match="is damaged"):
        read_records(path)


def test_columns_of_text_are_aligned_to_the_left() -> None:
    table = markdown_table(["way", "s", "scans"], [["brush", "3", "a, b"]], text=(0, 2))
    assert table == "| way | s | scans |\n| --- | ---: | --- |\n| brush | 3 | a, b |"
