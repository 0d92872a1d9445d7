"""Failing and slow disks: each trial changes a project while one operation of the disk goes wrong."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from faulty_disk import FaultyDisk
from soak_damage import Trial, digest
from soak_kills import in_child

HOW = ("error", "short", "kill", "slow")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS)
REFUSED, TRACEBACK = b"refused", b"traceback"


class BadDisk:
    """A change of a project through `FaultyDisk`, in a process of its own.

    Afterwards the project must be as before the change or as after it (as after it if no error was raised),
    without temporary files.
    """

    def __init__(self, work: Path) -> None:
        from medssl.core.project.project import Annotation
        from medssl.nn.models import checkpoint
        from small import job_of, make_project, run

        self.work = work
        project = make_project(work / "whole", shape=(8, 24, 24))
        self.scan = next(iter(project.scans))
        self.run = run(job_of("finetune-none", project, predict_scans=(self.scan,)))["run"]
        self.painted = project.annotation(self.scan) or Annotation(np.zeros((8, 24, 24), np.uint8))
        self.checkpoint = checkpoint.load(project.run(self.run).checkpoint)
        self.source = Path(project.scans[self.scan].source)
        self.root = project.root
        self.changes: dict[str, Callable[[Any], object]] = {
            "an annotation": self._annotate,
            "a stroke": self._paint,
            "a scan": self._add_scan,
            "a class": self._add_class,
            "a modality": self._change_modality,
            "landmarks": self._set_landmark,
            "the viewer's state": self._save_view,
            "a prediction": self._predict,
            "weights": self._save_weights,
            "an exported segmentation": self._export,
        }
        self.operations = {name: self._count(name) for name in self.changes}

    def trial(self, random: np.random.Generator) -> Trial:
        """Change something; the disk fails at a random operation."""
        name = list(self.changes)[int(random.integers(len(self.changes)))]
        how = HOW[int(random.integers(len(HOW)))]
        error = ERRORS[int(random.integers(len(ERRORS)))]
        fail_at, lasting = int(random.integers(self.operations[name])), bool(random.integers(2))
        root = self._copy()
        disk = FaultyDisk(fail_at, error, how, lasting)
        child, reading = in_child(lambda pipe: self._change(name, root, disk, pipe))
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        kind = f"disk fails while writing {name}"
        detail = (
            f"{how} {errno.errorcode[error]} at {fail_at}{' and after' if lasting else ''}: {said.decode()}"
        )
        if code not in ((0, -signal.SIGKILL) if how == "kill" else (0,)) or said.startswith(TRACEBACK):
            return Trial(kind, "traceback", detail)
        refused = said.startswith(REFUSED)
        after = [self.after[name]] if code == 0 and not refused else [self.before, self.after[name]]
        try:
            state = self._state(root)
        except Exception as problem:
            return Trial(kind, "lost", f"{detail}: afterwards {type(problem).__name__}: {problem}")
        if state not in after:
            return Trial(kind, "lost", detail)
        left = list(root.rglob(".*.tmp"))
        if left:
            return Trial(kind, "lost", f"{detail}: left {left}")
        return Trial(kind, "refused" if refused else "right")

    def _count(self, name: str) -> int:
        """Number of operations of a change; sets the states before and after it."""
        root = self._copy()
        self.before = self._state(root)
        with FaultyDisk() as disk:
            self.changes[name](self._open(root))
        self.after = {**getattr(self, "after", {}), name: self._state(root)}
        return len(disk.operations)

    def _copy(self) -> Path:
        root = self.work / "copy"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(self.root, root)
        return root

    def _open(self, root: Path) -> Any:
        from medssl.core.project.project import Project

        return Project.open(root)

    def _change(self, name: str, root: Path, disk: FaultyDisk, pipe: int) -> None:
        from medssl.core.errors import UserError

        project = self._open(root)
        try:
            with disk:
                self.changes[name](project)
        except UserError as error:
            os.write(pipe, REFUSED + f": {error}".encode())
        except Exception as error:
            os.write(pipe, TRACEBACK + f": {type(error).__name__}: {error}".encode())

    def _state(self, root: Path) -> str:
        """Digest of everything that the next viewer would see, after it has tidied up."""
        from medssl.core.features.landmarks import read_landmarks
        from medssl.core.io.volume import read_scan
        from medssl.core.project.stroke_log import StrokeLog, journal_file
        from medssl.nn.models import checkpoint

        project = self._open(root)
        project.remove_unfinished()
        scans = {
            each.id: (each.modality, np.array(project.image(each.id)), self._annotation(project, each.id))
            for each in project.scans.values()
        }
        journal = StrokeLog(journal_file(root, self.scan), project.scans[self.scan].geometry.shape_zyx)
        strokes = journal.mend()[0].strokes
        exported = root / "out.nii.gz"
        return digest(
            [
                scans,
                [(each.id, each.name) for each in project.classes],
                [(stroke.voxels, stroke.labels) for stroke in strokes],
                [(each.name, each.voxel_zyx) for each in read_landmarks(project).points],
                asdict(project.view_state),
                project.prediction(self.run, self.scan) if project.has_prediction(self.run, self.scan) else 0,
                checkpoint.load(project.run(self.run).checkpoint)[0],
                read_scan(exported).array if exported.exists() else 0,
            ]
        )

    def _annotation(self, project: Any, scan: str) -> Any:
        value = project.annotation(scan)
        return value and (value.labels, value.complete)

    # --- changes -------------------------------------------------------------------------------------

    def _annotate(self, project: Any) -> None:
        from medssl.core.project.project import Annotation

        project.save_annotation(self.scan, Annotation(self.painted.labels % 2, ((0, 3),)))

    def _paint(self, project: Any) -> None:
        from napari_medssl.model.annotation_model import AnnotationModel

        model = AnnotationModel()
        model.open(project, self.scan)
        model.create()[2, 3:9, 4:7] = 7
        model.record()
        assert model.journal is not None
        model.journal.sync()

    def _add_scan(self, project: Any) -> None:
        import nibabel

        image = nibabel.load(self.source)
        path = project.root.parent / "further.nii"
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj)[::-1] * 2, image.affine), path)
        project.add_scan(path)

    def _add_class(self, project: Any) -> None:
        from medssl.core.labels.classes import add_structure

        add_structure(project)

    def _change_modality(self, project: Any) -> None:
        from medssl.core.project.images import read_source

        project.change_modality(self.scan, "ct", "user", read_source(project.scans[self.scan]))

    def _set_landmark(self, project: Any) -> None:
        from medssl.core.features.landmarks import Landmark, Landmarks, write_landmarks

        write_landmarks(project, Landmarks((Landmark("tip", self.scan, (1, 2, 3)),)))

    def _save_view(self, project: Any) -> None:
        from medssl.core.project.project import ViewState

        project.save_view_state(ViewState(self.scan, slices={self.scan: (0, 5)}))

    def _predict(self, project: Any) -> None:
        project.save_prediction(self.run, self.scan, np.ones((8, 24, 24), np.uint8))

    def _save_weights(self, project: Any) -> None:
        from medssl.nn.models import checkpoint

        tensors, card = self.checkpoint
        checkpoint.save(
            project.run(self.run).checkpoint, {name: each + 1 for name, each in tensors.items()}, card
        )

    def _export(self, project: Any) -> None:
        from medssl.core.export.files import export_scan

        export_scan(project, self.scan, self.run, project.root / "out.nii.gz")
