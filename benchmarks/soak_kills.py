"""Killed processes: a painting viewer, a training, two writers of one project."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from soak_damage import Trial

SHAPE = (8, 40, 40)


def in_child(work: Callable[[int], None]) -> tuple[int, int]:
    """Run a function in a forked process; returns its id and the reading end of what it writes."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        code = 1
        try:
            work(writing)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    return child, reading


def kill_after(child: int, reading: int, seconds: float) -> tuple[bytes, bool]:
    """Kill a child after some time; returns everything that it has written, and whether it had failed."""
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with os.fdopen(reading, "rb") as pipe:
        return pipe.read(), code not in (0, -signal.SIGKILL)


class Painter:
    """A viewer's annotation model in a process that is killed while it paints and saves."""

    def __init__(self, work: Path) -> None:
        from small import make_project

        self.project = make_project(work / "painter", shape=SHAPE)
        self.scan = next(iter(self.project.scans))
        self.strokes = 0

    def trial(self, random: np.random.Generator) -> Trial:
        """Paint from a random state until killed; all acknowledged strokes but the last must be there."""
        seed, save_every = int(random.integers(2**31)), int(random.integers(2, 9))
        before = self._recover()
        child, reading = in_child(lambda pipe: self._paint(pipe, seed, save_every))
        written, failed = kill_after(child, reading, float(random.uniform(0.0, 0.25)))
        acknowledged = written.count(b"\n")
        self.strokes += acknowledged
        expected, sure = before.copy(), before.copy()
        generator = np.random.default_rng(seed)
        for number in range(acknowledged):
            voxels, label = draw_stroke(generator)
            expected.reshape(-1)[voxels] = label
            if number < acknowledged - 1:
                sure.reshape(-1)[voxels] = label
        voxels, label = draw_stroke(generator)  # written, but not acknowledged
        further = expected.copy()
        further.reshape(-1)[voxels] = label
        found = self._recover()
        kind = "painting process killed"
        if failed:
            return Trial(kind, "traceback", "the painting process failed")
        if any(np.array_equal(found, possible) for possible in (expected, further, sure)):
            return Trial(kind, "right", f"{acknowledged} strokes")
        return Trial(
            kind, "lost", f"{int((found != expected).sum())} voxels differ after {acknowledged} strokes"
        )

    def _recover(self) -> np.ndarray:
        """Open the annotation as the next viewer does, and write what was recovered."""
        from napari_medssl.model.annotation_model import AnnotationModel

        model = AnnotationModel()
        model.open(self.project, self.scan)
        labels = model.create()
        recovered = model.recover()
        if recovered is not None:
            labels.reshape(-1)[recovered.voxels] = recovered.labels
            model.end_recovery()
            model.touch()
        if model.unsaved:
            pending = model.begin_write()
            model.end_write(pending, pending.write())
        return labels.copy()

    def _paint(self, pipe: int, seed: int, save_every: int) -> None:
        from napari_medssl.model.annotation_model import AnnotationModel

        model, generator = AnnotationModel(), np.random.default_rng(seed)
        model.open(self.project, self.scan)
        labels = model.create().reshape(-1)
        for number in range(10_000):
            voxels, label = draw_stroke(generator)
            labels[voxels] = label
            model.touch()
            model.record()
            os.write(pipe, b"%d\n" % number)
            if number % save_every == save_every - 1:
                pending = model.begin_write()
                model.end_write(pending, pending.write())


def draw_stroke(generator: np.random.Generator) -> tuple[np.ndarray, int]:
    """(flat indices, label) that change at least one voxel nearly always."""
    start = int(generator.integers(np.prod(SHAPE) - 60))
    return np.arange(start, start + int(generator.integers(1, 60))), int(generator.integers(1, 250))


class Trainer:
    """A fine-tuning that is killed and resumed."""

    def __init__(self, work: Path) -> None:
        from small import make_project

        self.project = make_project(work / "trainer", shape=(12, 24, 24))
        self.run, self.reached = "", 0

    def trial(self, random: np.random.Generator) -> Trial:
        """Kill a training; the project must open, and the run go on from its last checkpoint."""
        from medssl.core.errors import UserError
        from medssl.core.project.project import Project
        from medssl.nn.models import checkpoint

        kind = "training killed"
        annotations = {path.name: path.read_bytes() for path in (self.project.root / "annotations").iterdir()}
        child, reading = in_child(self._train)
        _, failed = kill_after(child, reading, float(random.uniform(0.05, 2.0)))
        if failed:
            return Trial(kind, "traceback", "the training failed")
        try:
            project = Project.open(self.project.root)
            project.remove_unfinished()
            runs = project.runs("finetune")
            if runs:
                newest = runs[-1]
                if newest.checkpoint.exists():
                    step = int(checkpoint.load(newest.checkpoint)[1]["step"])
                    if newest.card["kind"] != "finetune" or (newest.id == self.run and step < self.reached):
                        return Trial(kind, "lost", f"step {step} after step {self.reached}")
                    self.run, self.reached = ("", 0) if step > 200 else (newest.id, step)
        except UserError as error:
            return Trial(kind, "lost", str(error))
        except Exception as error:
            return Trial(kind, "traceback", f"{type(error).__name__}: {error}")
        if {path.name: path.read_bytes() for path in (project.root / "annotations").iterdir()} != annotations:
            return Trial(kind, "lost", "the annotations have changed")
        left = list(project.root.rglob(".*.tmp"))
        return Trial(kind, "lost", f"left behind: {left}") if left else Trial(kind, "right")

    def _train(self, pipe: int) -> None:
        from medssl import engine
        from medssl.core.jobs import FinetuneJob
        from small import FINETUNE

        settings = {**FINETUNE, "checkpoint_every_s": 0.05}
        root = str(self.project.root)
        job = (
            FinetuneJob(project=root, resume=self.run)
            if self.run
            else FinetuneJob(project=root, steps=300, settings=settings)
        )
        engine.run(job, lambda event: None, lambda: False)


class TwoWriters:
    """Two processes that add scans to one project, and a third one that saves the view."""

    def __init__(self, work: Path) -> None:
        import nibabel as nib

        self.work = work / "writers"
        self.work.mkdir(parents=True)
        self.files = []
        for number in range(10):
            image = np.random.default_rng(number).normal(size=(6, 7, 8)).astype(np.float32)
            path = self.work / f"s{number % 5}" / f"{'ab'[number // 5]}" / "ct.nii.gz"
            path.parent.mkdir(parents=True)
            nib.save(nib.Nifti1Image(image, np.eye(4)), path)
            self.files.append(path)
        self.count = 0

    def trial(self, random: np.random.Generator) -> Trial:
        """All scans are in the project afterwards, each with its own image."""
        from medssl.core.io.intensity import normalise
        from medssl.core.io.volume import read_scan
        from medssl.core.project.project import Project, ViewState

        self.count += 1
        root = self.work / f"project-{self.count}"
        Project.create(root)

        def add(files: list[Path]) -> Callable[[int], None]:
            def work(pipe: int) -> None:
                project = Project.open(root)
                for path in files:
                    project.add_scan(path)

            return work

        def save_view(pipe: int) -> None:
            project = Project.open(root)
            for number in range(40):
                project.save_view_state(ViewState(slices={"x": [0, number]}))

        children = [in_child(work) for work in (add(self.files[:5]), add(self.files[5:]), save_view)]
        codes = [os.waitpid(child, 0)[1] for child, _ in children]
        for _, reading in children:
            os.close(reading)
        kind = "two writers"
        project = Project.open(root)
        if any(codes) or len(project.scans) != len(self.files):
            return Trial(kind, "lost", f"{len(project.scans)} of {len(self.files)} scans, exit codes {codes}")
        for scan in project.scans.values():
            image = normalise(read_scan(Path(scan.source)).array, scan.modality).astype(np.float16)
            if not np.array_equal(project.image(scan.id), image):
                return Trial(kind, "lost", f"{scan.id} has another scan's image")
        return Trial(kind, "right")


def run_window(seed: int, actions: int) -> Trial:
    """One seed of soak_window.py in a process of its own."""
    script = Path(__file__).with_name("soak_window.py")
    command = [sys.executable, "-W", "ignore", str(script), "--once", str(seed), "--actions", str(actions)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode:
        return Trial("random actions in a window", "traceback", f"seed {seed} ended with {child.returncode}")
    import json

    result = json.loads(child.stdout.splitlines()[-1])
    outcome = "lost" if result["lost"] else "traceback" if result["problems"] else "right"
    return Trial("random actions in a window", outcome, "; ".join(result["problems"])[:500])
