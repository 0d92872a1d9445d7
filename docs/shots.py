"""The pictures of the guide and the film of the README, taken of the real window: `python -m docs.shots`.

A simulated user goes through the steps on a real scan by mouse and keyboard, with the real engine, as in
the window tests (tests/plugin/user_simulation.py), so that the guide shows the window as it is. Without a
display it runs itself under xvfb-run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import napari
import numpy as np
import scenes
from medssl.benchmarking.simulated_annotator import choose_slices
from PIL import Image
from qtpy.QtCore import Qt, QTimer
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication
from user_simulation import UserSimulation, wait_until

from napari_medssl.predict.uncertainty_layer import UNCERTAINTY

ROOT = Path(__file__).parents[1]
SIZE = 1280, 800
FILM_WIDTH = 800
FRAME_MS = 110


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--minutes", type=float, default=1.5, help="of each training")
    parser.add_argument("--themes", default="dark", help="dark, light or dark,light")
    given = parser.parse_args()
    if not os.environ.get("DISPLAY") and sys.platform == "linux":
        if not shutil.which("xvfb-run"):
            sys.exit("There is no display; install Debian's xvfb, or run this on a desktop.")
        screen = ["xvfb-run", "-a", "-s", "-screen 0 1400x1000x24"]
        sys.exit(subprocess.call([*screen, sys.executable, "-m", "docs.shots", *sys.argv[1:]], cwd=ROOT))
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        walk(Path(scratch), given.out, given.minutes, given.themes.split(","))


class Camera:
    """Takes pictures of the window, and a film while it is told to."""

    def __init__(self, viewer, out: Path, themes: list[str]) -> None:
        self.viewer, self.out, self.themes = viewer, out, themes
        self.frames: list[np.ndarray] = []

    def shoot(self, name: str) -> None:
        """The window in each theme; the first theme's picture has the plain name."""
        for number, theme in enumerate(self.themes):
            self.viewer.theme = theme
            self.settle(900)
            path = self.out / (f"{name}.png" if number == 0 else f"{name}-{theme}.png")
            self.viewer.window.screenshot(str(path), canvas_only=False, flash=False)
        self.viewer.theme = self.themes[0]
        self.settle(200)

    def frame(self, times: int = 1) -> None:
        """One frame of the film, shown so many times as long as others."""

        shot = self.viewer.window.screenshot(canvas_only=False, flash=False)
        picture = Image.fromarray(shot[..., :3])
        height = round(picture.height * FILM_WIDTH / picture.width)
        small = np.asarray(picture.resize((FILM_WIDTH, height), Image.Resampling.LANCZOS))
        self.frames += [small] * times

    @contextmanager
    def rolling(self, every_ms: int) -> Iterator[None]:
        """Take a frame now and then, for what takes its time by itself."""

        timer = QTimer(interval=every_ms)
        timer.timeout.connect(self.frame)
        timer.start()
        yield
        timer.stop()

    def develop(self, path: Path) -> None:
        """Write the film as GIF with one palette for all frames."""
        sample = np.concatenate(self.frames[:: max(1, len(self.frames) // 12)])
        palette = Image.fromarray(sample).quantize(128)
        plain = Image.Dither.NONE
        film = [Image.fromarray(one).quantize(palette=palette, dither=plain) for one in self.frames]
        film[0].save(path, save_all=True, append_images=film[1:], duration=FRAME_MS, loop=0, optimize=True)

    def settle(self, milliseconds: int) -> None:
        """Let the window live for a moment."""
        QTest.qWait(milliseconds)


def walk(folder: Path, out: Path, minutes: float, themes: list[str]) -> None:
    """Go through the steps on the torso CT, or on a phantom where there are no data."""
    QApplication.setAttribute(Qt.ApplicationAttribute.AA_DontUseNativeDialogs)
    scans = folder / "scans"
    scans.mkdir()
    scene = scenes.torso(scans) or scenes.phantom(scans)
    scenes.beside_the_torso(scans)
    viewer = napari.Viewer(show=True)
    viewer.window.resize(*SIZE)
    _, dock = viewer.window.add_plugin_dock_widget("napari-medssl")
    camera, user = Camera(viewer, out, themes), UserSimulation(viewer, dock)
    camera.settle(500)
    _open(user, camera, scans, scene)
    slices = _annotate(user, camera, scene)
    _pretrain(user, camera, minutes)
    _fine_tune(user, camera, minutes, (slices[1] + slices[2]) // 2)
    _features(user, camera, scene, slices[2])
    camera.develop(out / "loop.gif")
    viewer.close()


def _open(user, camera: Camera, scans: Path, scene) -> None:
    user.choose_file(user.dock.scans.dicom, scans)
    agree = user.dock.scans.new_project.agree
    wait_until(agree.isVisible, 20, "the place of the new project")
    user.click(agree)
    files = len(list(scans.glob("[!.]*.nii*")))
    session = user.dock.session
    wait_until(lambda: session.project is not None and len(session.project.scans) == files, 60, "opening")
    scan = next(
        each.id for each in session.project.scans.values() if Path(each.source).name == scene.path.name
    )
    session.select(scan)
    wait_until(lambda: user.dock.workspace.scan_layer is not None, 30, "the scan")
    user.open_step(1)
    camera.settle(1500)
    camera.shoot("1-scans")
    camera.frame(8)


def _annotate(user, camera: Camera, scene) -> list[int]:
    dock = user.dock
    user.open_step(2)
    if dock.annotate.new.isVisible():
        user.click(dock.annotate.new)
    for count in range(2, len(scene.names) + 1):
        user.click(dock.annotate.add)
        wait_until(lambda count=count: dock.annotate.classes.rowCount() == count, 20, "the new class")
    for row, name in enumerate(scene.names):
        user.rename_class(row, name)
    layer = dock.workspace.annotation_layer
    while layer.brush_size > 1:
        user.key(Qt.Key.Key_BracketLeft)
    slices = list(choose_slices(scene.truth, 6))
    for index in slices:
        with camera.rolling(1500):
            user.complete_slice(scene.truth, index)
        camera.frame(4)
    user.go_to_slice(slices[2])
    camera.settle(1500)
    camera.shoot("2-annotate")
    return slices


def _pretrain(user, camera: Camera, minutes: float) -> None:
    dock = user.dock
    user.open_step(3)
    user.set_minutes(dock.pretrain.minutes, minutes)
    wait_until(lambda: bool(dock.pretrain.estimate.text()), 120, "the estimate")
    user.click(dock.pretrain.start)
    with camera.rolling(round(minutes * 60_000 / 25)):
        wait_until(
            lambda: dock.session.job.fraction > 0.8 or not dock.session.job.running, 900, "pre-training"
        )
    camera.shoot("3-pretrain")
    wait_until(lambda: not dock.session.job.running, 900, "the end of pre-training")


def _watch(dock, camera: Camera, minutes: float, name: str) -> None:
    """Film a training and take its picture when it has come far."""
    with camera.rolling(round(minutes * 60_000 / 25)):
        wait_until(lambda: dock.session.job.fraction > 0.8 or not dock.session.job.running, 900, name)
    camera.shoot(name)
    wait_until(lambda: not dock.session.job.running, 900, f"the end of {name}")


def _fine_tune(user, camera: Camera, minutes: float, between: int) -> None:
    dock = user.dock
    user.open_step(4)
    user.set_minutes(dock.finetune.minutes, minutes)
    user.go_to_slice(between)
    user.click(dock.finetune.start)
    with camera.rolling(round(minutes * 60_000 / 25)):
        wait_until(
            lambda: dock.session.job.fraction > 0.8 or not dock.session.job.running, 900, "fine-tuning"
        )
    camera.shoot("4-finetune")
    wait_until(lambda: not dock.session.job.running, 900, "the end of fine-tuning")
    user.dismiss_notifications()
    user.open_step(5)
    wait_until(lambda: dock.workspace.prediction_layer is not None, 30, "the prediction")
    camera.frame(4)
    for index in range(between, between + 8):
        user.go_to_slice(index)
        camera.frame()
    user.go_to_slice(between)
    camera.shoot("5-prediction")
    camera.frame(12)
    user.choose(dock.prediction.display_box, "Uncertainty")
    wait_until(lambda: dock.prediction.uncertainty.displayed == UNCERTAINTY, 30, "the choice")
    wait_until(lambda: not dock.session.job.running, 120, "the doubt")
    camera.settle(500)
    camera.shoot("5-unsure")
    user.choose(dock.prediction.display_box, "Classes")


def _features(user, camera: Camera, scene, index: int) -> None:
    dock = user.dock
    user.open_step(6)
    user.go_to_slice(index)
    user.click(dock.features.compute_all)
    wait_until(lambda: not dock.session.job.running, 300, "the features")
    user.dismiss_notifications()
    user.click(dock.features.follow)
    inside = np.argwhere(scene.truth[index] == 1)
    middle = inside[np.linalg.norm(inside - inside.mean(0), axis=1).argmin()]
    user.click_voxel(dock.workspace.scan_layer, (index, *middle))
    wait_until(lambda: any(each.name == "similarity" for each in user.viewer.layers), 30, "similarity")
    camera.settle(2500)
    camera.shoot("6-features")
    camera.frame(14)
    user.click(dock.features.show_colors)
    camera.settle(4000)
    camera.shoot("6-colours")


if __name__ == "__main__":
    main()
