"""A disk that refuses, at any moment and whatever is being saved, leaves the project as it was."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import pytest
from medssl.core.errors import UserError
from medssl.core.export.files import export_scan
from medssl.core.project.project import Annotation, Project
from project_parts import code_of, painted


@pytest.mark.parametrize("where", ["write", "fsync"])
@pytest.mark.parametrize("number, code", [(errno.ENOSPC, "disk-full"), (errno.EACCES, "not-writable")])
def test_a_disk_that_refuses_leaves_everything_as_it_was(
    small_project: Project,
    second_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    number: int,
    code: str,
) -> None:
    small_project.save_annotation("scan", Annotation(painted()))
    run = small_project.new_run("finetune", {}, "finetune").id
    before = contents(small_project.root)
    with monkeypatch.context() as patch:
        refuse(patch, where, number)
        for action in (
            lambda: small_project.save_annotation("scan", Annotation(painted(2))),
            lambda: small_project.save_prediction(run, "scan", painted(2)),
            lambda: small_project.save_view_state({"step": 3}),
            lambda: small_project.set_classes(()),
            lambda: small_project.add_scan(second_file),
            lambda: export_scan(small_project, "scan", None, small_project.root / "out.nii.gz"),
        ):
            with pytest.raises(UserError) as error:
                action()
            assert code_of(error) == code
    assert contents(small_project.root) == before
    assert small_project.scans.keys() == {"scan"}


def refuse(patch: pytest.MonkeyPatch, where: str, number: int) -> None:
    """Let every file refuse its bytes, in the middle of writing or when they have to reach the disk."""
    refusal = OSError(number, os.strerror(number))

    class Refusing(io.FileIO):
        def write(self, content: Any) -> int:
            super().write(bytes(content)[:50])
            raise refusal

    def fsync(_: int) -> None:
        raise refusal

    if where == "fsync":
        patch.setattr(os, "fsync", fsync)
    else:
        patch.setattr(os, "fdopen", lambda descriptor, _: Refusing(descriptor, "wb"))


def contents(folder: Path) -> dict[Path, bytes]:
    """All files under a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
