"""Time from the end of a stroke to updated outlines on the screen: python benchmarks/preview.py

Opens a window (under Xvfb: xvfb-run -a -s "-screen 0 1400x1000x24" python benchmarks/preview.py) on a
synthetic scan of 256 x 256 x 128 voxels, with features of the engine's grid and width, and paints strokes by
mouse events. Measured is the time from the release of the button to the first frame whose outlines include
the stroke. --train does this while the engine pre-trains on the scan.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from medssl.benchmarking.report import markdown_table
from medssl.benchmarking.surroundings import window_text
from medssl.core.features.similarity import write_features
from medssl.core.project.annotation import SURE_BACKGROUND
from medssl.core.project.project import LabelClass, Project
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest

from napari_medssl.explore.instant_preview import InstantPreview
from napari_medssl.model.job_factory import pretrain_job

sys.path.append(str(Path(__file__).parents[1] / "tests" / "plugin"))
from user_simulation import UserSimulation, open_and_wait, open_window, wait_until

WIDTH = 32  # features.WIDTH, which needs torch


@dataclass(frozen=True)
class Scene:
    """A noisy ball in a noisy box; lengths in voxels."""

    shape_zyx: tuple[int, int, int]
    centre_zyx: tuple[int, int, int]
    radius: int
    step_zyx: tuple[int, int, int]
    """Voxels per cell of the features, as feature_grid.grid_step has it for this shape."""

    @property
    def size_text(self) -> str:
        """Number of voxels as x, y, z."""
        return " x ".join(map(str, reversed(self.shape_zyx)))

    def inside(self, index: int) -> np.ndarray:
        """Which voxels of an axial slice are in the ball, bool (Y, X)."""
        y, x = np.ogrid[: self.shape_zyx[1], : self.shape_zyx[2]]
        z0, y0, x0 = self.centre_zyx
        return (index - z0) ** 2 + (y - y0) ** 2 + (x - x0) ** 2 < self.radius**2


SCENE = Scene((128, 256, 256), (60, 120, 120), 45, (2, 2, 2))


def write_scan(path: Path, scene: Scene) -> Path:
    """Write a CT, int16, of soft tissue with a ball of contrast agent."""
    random = np.random.default_rng(0)
    image = np.empty(scene.shape_zyx[::-1], np.int16)
    for index in range(scene.shape_zyx[0]):
        noise = random.standard_normal(scene.shape_zyx[1:], np.float32)
        image[:, :, index] = (scene.inside(index) * 100 + 40 * noise).T
    nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), path)
    return path


def add_features(project: Project, scene: Scene) -> None:
    """Add a run whose noisy features separate ball and box."""
    random = np.random.default_rng(0)
    run = project.new_run("pretrain", {"job": "pretrain", "method": "pgl"}, "pgl")
    run.checkpoint.write_bytes(bytes(10_000_000))
    z, y, x = scene.step_zyx
    slices = range(z // 2, scene.shape_zyx[0], z)
    cells = np.stack([scene.inside(index)[y // 2 :: y, x // 2 :: x] for index in slices])
    kinds = random.normal(size=(2, WIDTH)).astype(np.float32)
    vectors = kinds[cells.astype(int)] + 0.7 * random.standard_normal((*cells.shape, WIDTH), np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    write_features(project, next(iter(project.scans)), run.id, vectors.astype(np.float16), scene.step_zyx)


class Clock:
    """Measures when the newest outlines were computed and shown; a context manager."""

    def __init__(self, user: UserSimulation) -> None:
        self.canvas, self.drawn = user.canvas, user.dock.preview.preview.drawn
        self.released = self.computed = self.shown = 0.0

    def __enter__(self) -> Clock:
        self.drawn.connect(self._on_drawn)
        self.canvas.frameSwapped.connect(self._on_frame)
        return self

    def __exit__(self, *_: object) -> None:
        self.drawn.disconnect(self._on_drawn)
        self.canvas.frameSwapped.disconnect(self._on_frame)

    def start(self) -> None:
        """Start the clock: the button was released."""
        self.released, self.computed, self.shown = time.perf_counter(), 0.0, 0.0

    def _on_drawn(self) -> None:
        self.computed = self.computed or time.perf_counter()
        self.canvas.update()  # unchanged outlines would not cause a frame

    def _on_frame(self) -> None:
        if self.computed and not self.shown:
            self.shown = time.perf_counter()


def stroke_times(user: UserSimulation, strokes: int, seed: int, scene: Scene = SCENE) -> np.ndarray:
    """Milliseconds (strokes, 2) until the outlines are computed and until they are shown.

    The strokes are distributed over three orientations. Use another seed for each call: a stroke where
    everything is painted already changes nothing.
    """
    workspace, preview = user.dock.workspace, user.dock.preview.preview
    random, times = np.random.default_rng(seed), []
    with Clock(user) as clock:
        for number in range(strokes):
            axis = number * 3 // strokes
            if number % 3 == 0 or axis != workspace.slice_on_screen()[0]:
                workspace.go_to(axis, int(scene.centre_zyx[axis] + random.integers(-25, 25)))
                settle(preview)
            label = SURE_BACKGROUND if number % 2 else 1
            workspace.paint(label)
            start, end = stroke_ends(scene, label, workspace.slice_on_screen(), random)
            user.drag(workspace.annotation_layer, start, end)
            clock.start()
            wait_until(lambda: clock.shown, 60, f"the outlines ({preview.missing})")
            times.append((clock.computed - clock.released, clock.shown - clock.released))
            settle(preview)
    return 1e3 * np.array(times)


def stroke_ends(
    scene: Scene, label: int, position: tuple[int, int], random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """First and last voxel (z, y, x) of a stroke in a slice (axis, index): in the ball, or beyond it."""
    axis, index = position
    beyond = scene.radius + 3 if label == SURE_BACKGROUND else 0
    start = np.array(scene.centre_zyx) + random.integers(-20, 20, 3) + beyond
    start = np.minimum(start, np.array(scene.shape_zyx) - 20)
    end = start + 12
    start[axis] = end[axis] = index
    return start, end


def settle(preview: InstantPreview) -> None:
    """Wait until nothing is being computed."""
    QTest.qWait(120)
    wait_until(lambda: preview._worker is None, 60, "the thread")


def begin_to_paint(user: UserSimulation, scene: Scene) -> None:
    """Two lines, one in the ball and one beside it, and the instant preview from our features."""
    dock = user.dock
    user.open_step(2)
    dock.workspace.new_annotation()
    weights = dock.features.weights
    weights.setCurrentIndex(weights.findData(dock.session.runs("pretrain")[0].id))
    weights.activated.emit(weights.currentIndex())
    QTest.qWait(500)
    user.key(Qt.Key.Key_W)
    assert dock.preview.preview.on
    z, y, x = scene.centre_zyx
    for label, row in ((1, y), (SURE_BACKGROUND, 20)):
        voxels = (np.full(30, z), np.full(30, row), x - 20 + np.arange(30))
        dock.workspace.annotation_layer.data_setitem(voxels, label)
    settle(dock.preview.preview)


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strokes", type=int, default=60)
    parser.add_argument("--train", action="store_true", help="while the engine pre-trains")
    parser.add_argument("--shot", help="save a screenshot of the window at the end")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project = Project.create(Path(folder) / "project", [LabelClass(1, "One", "#ff6f61")])
        project.add_scan(write_scan(Path(folder) / "scan.nii.gz", SCENE))
        add_features(project, SCENE)
        viewer, dock = open_window()
        open_and_wait(dock, project.root)
        QTest.qWait(1000)
        user = UserSimulation(viewer, dock)
        begin_to_paint(user, SCENE)
        session = dock.session
        if options.train:
            dock.jobs.start(pretrain_job(session, "pgl", "quick", 30))
            wait_until(lambda: session.job.step > 2 or not session.job.running, 300, "the first steps")
        stroke_times(user, 3, seed=0)  # the first strokes load modules
        times = stroke_times(user, options.strokes, seed=1)
        assert not options.train or session.job.running, "the training ended too early"
        if options.shot:
            viewer.window.screenshot(options.shot, canvas_only=False, flash=False)
        if options.train:
            dock.jobs.stop()
            wait_until(lambda: not session.job.running, 120, "the end of the training")
        viewer.close()
    command = f"python benchmarks/preview.py --strokes {options.strokes}{' --train' * options.train}"
    print(f"`{command}`, {window_text()}; {SCENE.size_text} voxels (x, y, z):\n")
    rows = []
    for name, column in (("outlines computed", times[:, 0]), ("on the screen", times[:, 1])):
        numbers = [f"{value:.0f}" for value in (np.median(column), np.percentile(column, 95), column.max())]
        rows.append([name, *numbers, "300" if options.train else "150"])
    print(markdown_table(["", "median ms", "95th percentile ms", "slowest ms", "goal for the 95th"], rows))


if __name__ == "__main__":
    main()
