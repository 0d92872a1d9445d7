"""A disk that refuses, at any moment and whatever is being saved, leaves the project as it was."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from faulty_disk import FaultyDisk
from medssl.core.errors import UserError
from medssl.core.export.files import export_scan
from medssl.core.project.project import Annotation, Project, ViewState
from project_parts import painted


@pytest.mark.parametrize("how", ["error", "short"])
@pytest.mark.parametrize("number, code", [(errno.ENOSPC, "disk-full"), (errno.EACCES, "not-writable")])
def test_a_disk_that_refuses_leaves_every_file_whole(
    small_project: Project, second_file: Path, how: str, number: int, code: str
) -> None:
    """Each operation fails in turn: before the new file is there, the old one is; never half of one."""
    small_project.save_annotation("scan", Annotation(painted()))
    run = small_project.new_run("finetune", {}, "finetune").id
    actions: tuple[Callable[[], object], ...] = (
        lambda: small_project.save_annotation("scan", Annotation(painted(2))),
        lambda: small_project.save_prediction(run, "scan", painted(2)),
        lambda: small_project.save_view_state(ViewState("scan")),
        lambda: small_project.set_classes(()),
        lambda: small_project.add_scan(second_file),
        lambda: export_scan(small_project, "scan", None, small_project.root / "out.nii.gz"),
    )
    for action in actions:
        for fail_at in range(100):
            before, failed = contents(small_project.root), False
            with FaultyDisk(fail_at, number, how) as disk:
                try:
                    action()
                except UserError as error:
                    failed = True
                    assert error.code == code and str(error).endswith("."), disk.operations
            if not failed and len(disk.operations) <= fail_at:
                break
            if failed and "replace" not in disk.operations[:-1]:
                assert contents(small_project.root) == before, disk.operations
            for path in small_project.root.rglob(".*.tmp"):
                assert disk.operations[fail_at] == "unlink", disk.operations
                path.unlink()
        assert fail_at > 3
    again = Project.open(small_project.root)
    annotation = again.annotation("scan")
    assert annotation is not None and annotation.labels.max() == 2 and len(again.scans) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither fork nor SIGKILL")
def test_a_kill_at_each_operation_leaves_the_annotation_whole(small_project: Project) -> None:
    small_project.save_annotation("scan", Annotation(painted()))
    with FaultyDisk() as disk:
        small_project.save_annotation("scan", Annotation(painted()))
    values = []
    for kill_at in range(len(disk.operations)):
        child = os.fork()
        if child == 0:
            with FaultyDisk(kill_at, how="kill"):
                small_project.save_annotation("scan", Annotation(painted(2)))
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        annotation = small_project.annotation("scan")
        assert annotation is not None
        values.append(int(annotation.labels.max()))
        small_project.remove_unfinished()
        assert not list(small_project.root.rglob(".*.tmp"))
    renamed = disk.operations.index("replace") + 1
    assert values == [1] * renamed + [2] * (len(values) - renamed)


def contents(folder: Path) -> dict[Path, bytes]:
    """All files under a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
