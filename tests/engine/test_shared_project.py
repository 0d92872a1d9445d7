"""Several processes change one project at the same time: nothing is lost, nothing is mixed up.

Child processes import this module, so it imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from medssl.cli.setup import init
from medssl.core.errors import UserError
from medssl.core.io.volume import fingerprint, read_scan
from medssl.core.json_files import write_json
from medssl.core.project import locks
from medssl.core.project.locks import CHANGE_FILE, change_lock
from medssl.core.project.modality import normalised
from medssl.core.project.project import LabelClass, Project, ViewState
from project_parts import code_of

SCANS = 25
SPAWN = get_context("spawn")
Child = Callable[..., object]


def write_scans(folder: Path, seeds: range, name: str = "scan-{:02d}.nii") -> Path:
    """Files with noise; those of two folders have the same names."""
    folder.mkdir()
    for number, seed in enumerate(seeds):
        values = np.random.default_rng(seed).gamma(2, 100, (8, 8, 8)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / name.format(number))
    return folder


def at_once(*children: tuple[Any, ...]) -> None:
    """Run functions with their arguments, each in a process of its own; they start together."""
    start = SPAWN.Barrier(len(children))
    processes = [SPAWN.Process(target=_after, args=(start, *child)) for child in children]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(processes)


def _after(start: Any, function: Child, *arguments: Any) -> None:
    start.wait()
    function(*arguments)


def use_viewer(root: Path) -> None:
    """What a viewer saves while somebody works in it, for about as long as the scans take."""
    project = Project.create(root, or_open=True)
    for number in range(60):
        project.refresh()
        project.save_view_state(ViewState("scan", dict.fromkeys(project.scans, (0, number))))
        project.change_classes(
            lambda known: (*known, LabelClass(1 + len(known), f"Class {len(known)}", "#000000"))
        )


def test_two_inits_beside_a_viewer_lose_nothing(tmp_path: Path) -> None:
    """Both inits also add one scan in common; nobody has made the project before."""
    root = tmp_path / "project"
    one, two = write_scans(tmp_path / "a", range(SCANS)), write_scans(tmp_path / "b", range(SCANS, 2 * SCANS))
    common = write_scans(tmp_path / "c", range(99, 100), "common.nii")
    at_once((init, root, [one, common]), (init, root, [two, common]), (use_viewer, root))
    project = Project.open(root)
    sources = sorted(path for folder in (one, two, common) for path in folder.iterdir())
    assert sorted(Path(scan.source) for scan in project.scans.values()) == sources
    for scan in project.scans.values():
        volume = read_scan(Path(scan.source))
        assert scan.sha256 == fingerprint(volume)
        expected = normalised(volume, scan.modality)
        assert np.array_equal(project.image(scan.id), expected), scan.id
    assert sorted(path.stem for path in (root / "scans").iterdir()) == sorted(project.scans)
    assert len(project.classes) == 60
    assert project.view_state.scan == "scan"


def change_modality(root: Path, source: Path, modalities: list[str]) -> None:
    project, volume = Project(root), read_scan(source)
    for modality in modalities:
        project.change_modality("scan", modality, "user", volume)


def read_images(root: Path) -> None:
    project, notices = Project(root), []
    project.on_notice = notices.append
    for _ in range(200):
        project.refresh()
        project.image("scan")
    assert not notices


def test_two_processes_that_change_a_modality_leave_its_image(tmp_path: Path) -> None:
    source = write_scans(tmp_path / "scans", range(1), "scan.nii") / "scan.nii"
    project = Project.create(tmp_path / "project")
    project.add_scan(source)
    at_once(
        (change_modality, project.root, source, ["ct", "mr"] * 40),
        (change_modality, project.root, source, ["mr", "ct"] * 40),
        (read_images, project.root),
    )
    project.refresh()
    scan = project.scans["scan"]
    np.testing.assert_array_equal(project.image("scan"), normalised(read_scan(source), scan.modality))
    assert [path.name for path in (project.root / "scans").iterdir()] == ["scan.npy"]


def test_a_lock_that_is_kept_ends_in_a_sentence_and_hinders_no_reader(
    small_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "WAIT_S", 0.05)
    with change_lock(small_project.root), pytest.raises(UserError, match="another process") as error:
        Project.open(small_project.root).hold_out("scan")
    assert code_of(error) == "locked"
    small_project.hold_out("scan")
    assert small_project.scans["scan"].held_out


def test_reading_takes_no_lock(small_project: Project) -> None:
    (small_project.root / CHANGE_FILE).unlink()
    project = Project.open(small_project.root)
    project.refresh()
    project.image("scan")
    assert not (small_project.root / CHANGE_FILE).exists()


def test_a_scan_that_project_json_cannot_take_leaves_no_image(
    small_project: Project, second_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, value: Any) -> bytes:
        raise UserError("The disk is full.", code="disk-full")

    monkeypatch.setattr("medssl.core.project.manifest.write_json", refuse)
    with pytest.raises(UserError):
        small_project.add_scan(second_file)
    assert [path.name for path in (small_project.root / "scans").iterdir()] == ["scan.npy"]
    assert list(small_project.scans) == ["scan"]


def test_an_image_stays_where_project_json_has_its_scan_in_spite_of_an_error(
    small_project: Project, second_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the folder does not reach the disk after project.json has been replaced."""

    def fail_afterwards(path: Path, value: Any) -> bytes:
        write_json(path, value)
        raise UserError("The disk is full.", code="disk-full")

    monkeypatch.setattr("medssl.core.project.manifest.write_json", fail_afterwards)
    with pytest.raises(UserError):
        small_project.add_scan(second_file)
    assert Project.open(small_project.root).image("other").any()
