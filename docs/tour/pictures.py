"""The loop on a real CT, with the pictures of the guide and the film of the README."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scenes
from medssl.benchmarking.simulated_annotator import choose_slices
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from user_simulation import wait_until

from docs.tour.camera import Camera
from docs.tour.stage import JOB_TIMEOUT_S, Stage
from napari_medssl.predict.uncertainty_layer import UNCERTAINTY

FRAMES = 25
"""Of a training, in the film."""


class Loop:
    """Goes through the steps on the torso CT, or on a phantom where there are no data."""

    def __init__(self, stage: Stage, camera: Camera, scene: scenes.Scene, minutes: float) -> None:
        self.stage, self.camera, self.scene, self.minutes = stage, camera, scene, minutes
        self.guide, self.user, self.dock = stage.guide, stage.user, stage.dock
        self.slices = [int(index) for index in choose_slices(scene.truth, 6)]

    def run(self) -> None:
        """All steps, in the order of the film."""
        self.open()
        self.annotate()
        self.pretrain()
        self.fine_tune()
        self.check()
        self.explore()

    def open(self) -> None:
        """Step 1, with the scans that were given on the command line."""
        stage, user, scans = self.stage, self.user, self.dock.scans
        self.guide("`medssl view CT/` opens napari with the dock and your scans")
        stage.wait(lambda: scans.new_project.place is not None, "the question for a place")
        user.click(scans.new_project.agree)
        files = len(list(self.scene.path.parent.glob("*.nii*")))
        session = self.dock.session
        stage.wait(lambda: session.project is not None and len(session.project.scans) == files, "the scans")
        stage.wait(lambda: not scans.adder.busy and stage.scan, "the first scan")
        stage.open_scan(self.scene.path.name.removesuffix(".nii.gz"))
        QTest.qWait(1500)
        self.camera.take_picture("1-scans")
        self.camera.add_frame(8)

    def annotate(self) -> None:
        """Step 2: the classes, six slices."""
        stage, user, panel = self.stage, self.user, self.dock.annotate
        user.open_step(2)
        self.guide("1. Press *New annotation*.", "4. Go to another slice, far from the first.")
        user.click(panel.new)
        for count in range(2, len(self.scene.names) + 1):
            user.click(panel.add)
            stage.wait(lambda count=count: panel.classes.rowCount() == count, "the new class")
        for row, name in enumerate(self.scene.names):
            user.rename_class(row, name)
        user.dismiss_notifications()
        while self.dock.workspace.annotation_layer.brush_size > 1:
            user.key(Qt.Key.Key_BracketLeft)
        for index in self.slices:
            with self.camera.filming(1500, most=8):
                user.complete_slice(self.scene.truth, index)
            self.camera.add_frame(4)
            right = np.array_equal(stage.labels[index], self.scene.truth[index])
            stage.check(right, f"Slice {index} has the strokes that were drawn.")
        user.go_to_slice(self.slices[2])
        QTest.qWait(1500)
        self.camera.take_picture("2-annotate")

    def pretrain(self) -> None:
        """Step 3."""
        panel = self.dock.pretrain
        self.user.open_step(3)
        self.user.set_minutes(panel.minutes, self.minutes)
        self.stage.wait(lambda: "steps" in panel.estimate.text(), "the estimate", JOB_TIMEOUT_S)
        self._train(panel, "3-pretrain")

    def fine_tune(self) -> None:
        """Step 4, on a slice that was not painted."""
        panel = self.dock.finetune
        self.user.open_step(4)
        self.user.set_minutes(panel.minutes, self.minutes)
        self.user.go_to_slice(self.between)
        self._train(panel, "4-finetune")

    def _train(self, panel, name: str) -> None:
        """Start a training, film it and take its picture when it has come far."""
        self.user.click(panel.start)
        with self.camera.filming(round(self.minutes * 60_000 / FRAMES)):
            self.stage.job_comes_to(0.8)
        self.camera.take_picture(name)
        self.stage.job_ends()
        self.user.dismiss_notifications()

    @property
    def between(self) -> int:
        """A slice between the painted ones."""
        return (self.slices[1] + self.slices[2]) // 2

    def check(self) -> None:
        """Step 5: the prediction, where the network is uncertain, Dice against the true labels."""
        stage, user, panel = self.stage, self.user, self.dock.prediction
        user.open_step(5)
        stage.wait(lambda: self.dock.workspace.prediction_layer is not None, "the prediction")
        self.camera.add_frame(4)
        for index in range(self.between, self.between + 8):
            user.go_to_slice(index)
            self.camera.add_frame()
        user.go_to_slice(self.between)
        QTest.qWait(500)
        self.camera.take_picture("5-prediction")
        self.camera.add_frame(12)
        user.pick(panel.display_box, "Uncertainty")
        stage.wait(lambda: panel.uncertainty.displayed == UNCERTAINTY, "the choice")
        wait_until(lambda: not self.dock.session.job.running, JOB_TIMEOUT_S, "the uncertainty")
        QTest.qWait(500)
        self.camera.take_picture("5-unsure")
        user.pick(panel.display_box, "Classes")

    def explore(self) -> None:
        """Step 6: a click in the first structure, and colours."""
        stage, user, panel, index = self.stage, self.user, self.dock.features, self.slices[2]
        user.open_step(6)
        user.go_to_slice(index)
        if panel.compute_all.isVisible():  # the phantom is alone
            user.click(panel.compute_all)
            stage.job_ends()
        user.click(panel.follow)
        inside = np.argwhere(self.scene.truth[index] == 1)
        middle = inside[np.linalg.norm(inside - inside.mean(0), axis=1).argmin()]
        user.click_voxel(self.dock.workspace.scan_layer, (index, *middle))
        stage.wait(lambda: stage.layer_named("similarity") is not None, "the map")
        QTest.qWait(2500)
        self.camera.take_picture("6-features")
        self.camera.add_frame(14)
        user.click(panel.show_colors)
        QTest.qWait(4000)
        self.camera.take_picture("6-colours")


def scans_in(folder: Path) -> scenes.Scene:
    """Write the scans of the pictures; returns the one that is painted."""
    folder.mkdir()
    scene = scenes.torso(folder)
    if scene is None:
        print(f"There is no CT in {scenes.DATA}: the pictures are of a phantom.", flush=True)
        scene = scenes.phantom(folder)
    scenes.beside_the_torso(folder)
    return scene
