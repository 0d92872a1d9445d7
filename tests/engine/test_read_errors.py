"""A drive that cannot be read is not taken for a damaged file: nobody should delete that."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from medssl.core.errors import UserError
from medssl.core.features.landmarks import read_landmarks
from medssl.core.features.similarity import open_features, write_features
from medssl.core.files import read_array, sha256_of, write_array
from medssl.core.io.labels import read_labels
from medssl.core.io.volume import read_scan
from medssl.core.json_files import read_json, write_json
from medssl.core.project.annotation_file import is_annotated, read_annotation, write_annotation
from medssl.core.project.project import Annotation, Project
from medssl.nn.models import checkpoint
from project_parts import SHAPE, code_of, painted


class BrokenDrive:
    """Files whose name contains `name` can be found, but not be read."""

    def __init__(self, patch: pytest.MonkeyPatch, name: str, number: int) -> None:
        real = io.open

        def opened(file: Any, *of: Any, **more: Any) -> Any:
            if isinstance(file, str | Path) and name in Path(file).name:
                raise OSError(number, os.strerror(number), str(file))
            return real(file, *of, **more)

        patch.setattr(io, "open", opened)
        patch.setattr("builtins.open", opened)


NUMBERS = [errno.EIO, errno.EACCES, errno.ESTALE, errno.ENOTCONN]


def refused(read: Callable[[], object], path: Path) -> None:
    with pytest.raises(UserError) as error:
        read()
    assert code_of(error) == "not-readable" and str(path) in str(error.value)
    assert "damaged" not in str(error.value) and "delete" not in str(error.value)


@pytest.mark.parametrize("number", NUMBERS)
def test_files_of_a_project(small_project: Project, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    small_project.save_annotation("scan", Annotation(painted()))
    run = small_project.new_run("pretrain", {}, "pgl")
    checkpoint.save(run.checkpoint, {}, {"kind": "pretrain"})
    write_features(small_project, "scan", run.id, np.zeros((*SHAPE, 4), np.float16), (1, 1, 1))
    run.checkpoint.write_bytes(b"damaged, which the drive does not let anybody see")
    root = small_project.root
    write_json(root / "landmarks.json", {})
    annotation = root / "annotations" / "scan.npz"
    reads = {
        annotation: [
            lambda: small_project.annotation("scan"),
            lambda: small_project.annotated(),
        ],
        root / "scans" / "scan.npy": [lambda: small_project.image("scan")],
        root / "project.json": [lambda: Project.open(root)],
        root / "landmarks.json": [lambda: read_landmarks(small_project)],
        run.folder / "job.json": [lambda: small_project.run(run.id)],
        run.folder / "card.json": [lambda: run.card],
        run.checkpoint: [lambda: checkpoint.load(run.checkpoint)],
        root / "features" / f"scan-{run.id}.json": [lambda: open_features(small_project, "scan", run.id)],
    }
    for path, actions in reads.items():
        with monkeypatch.context() as patch:
            BrokenDrive(patch, path.name, number)
            for read in actions:
                refused(read, path)


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "scan.nrrd", "scan.mha"])
@pytest.mark.parametrize("read", [read_scan, read_labels])
def test_scans_and_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, read: Callable[[Path], object]
) -> None:
    path = tmp_path / name
    if "nii" in name:
        values = np.random.default_rng(0).integers(0, 255, (9, 9, 9)).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    path.write_bytes(path.read_bytes()[:400] if path.exists() else b"NRRD0004")
    with pytest.raises(UserError) as error:
        read(path)
    assert error.value.code == "unreadable", "it is damaged indeed"
    BrokenDrive(monkeypatch, name, errno.EIO)
    refused(lambda: read(path), path)


def test_arrays_and_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "array.npy"
    write_array(path, np.zeros(3))
    BrokenDrive(monkeypatch, path.name, errno.EIO)
    for read in (read_array, lambda path: read_array(path, True), sha256_of, read_json):
        refused(lambda read=read: read(path), path)


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scan.npz"
    write_annotation(path, Annotation(painted()), SHAPE)
    BrokenDrive(monkeypatch, path.name, errno.EPERM)
    refused(lambda: read_annotation(path, SHAPE), path)
    refused(lambda: is_annotated(path, SHAPE), path)
