"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import loopback_sshd
import nibabel
import numpy as np
import pytest
from medssl.core import remote_hosts
from medssl.core.project.project import LabelClass, Project


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under `pytest -n`, a file's tests share their fixtures, and windows do not take each other's focus.

    The windows come first: they take longest, and one process has all of them. Files with slow tests follow,
    so that no process has such a one left when all others are done.
    """
    items.sort(key=lambda item: [item.get_closest_marker(name) is None for name in ("viewer", "slow")])
    for item in items:
        group = "windows" if item.get_closest_marker("viewer") else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real scans; the test is skipped where it is missing."""
    folder = Path(os.environ.get("MEDSSL_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"the real scans are not at {folder} (set MEDSSL_DATA)")
    return folder


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[loopback_sshd.Server]:
    """A real sshd on loopback, known to ssh as loopback_sshd.HOST."""
    from medssl.remote import relay

    if reason := loopback_sshd.missing():
        pytest.skip(reason)
    folder = tmp_path / "server"
    folder.mkdir()
    made = loopback_sshd.make_server(folder)
    for name, value in loopback_sshd.environment(made).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote_hosts, "FILE", made.home / "config" / "medssl" / "hosts.json")
    monkeypatch.setattr(relay, "WAITS_S", (0.05,))
    made.start()
    yield made
    made.end()


@pytest.fixture
def scan_file(tmp_path: Path) -> Path:
    """A small MR-like NIfTI file whose axes run differently from ours (left, superior, posterior)."""
    values = np.random.default_rng(0).gamma(2, 100, (10, 6, 9)).astype(np.float32)
    affine = np.array([[-1.5, 0, 0, 20], [0, 0, -2, 30], [0, 4, 0, -40], [0, 0, 0, 1.0]])
    path = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


@pytest.fixture
def small_project(tmp_path: Path, scan_file: Path) -> Project:
    """A project with two classes and one scan, "scan", of (6, 9, 10) voxels."""
    classes = (LabelClass(1, "one", "#e41a1c"), LabelClass(2, "two", "#377eb8"))
    project = Project.create(tmp_path / "project", classes)
    project.add_scan(scan_file)
    return project


@pytest.fixture
def second_file(tmp_path: Path) -> Path:
    """A second scan, "other.nii", in a folder of its own."""
    path = tmp_path / "elsewhere" / "other.nii"
    path.parent.mkdir()
    values = np.random.default_rng(1).normal(0, 300, (5, 6, 7)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([2.0, 2, 2, 1])), path)
    return path
