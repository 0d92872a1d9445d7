"""A training and predictions on another computer, whose connection is cut: docs/remote.md, filmed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from loopback_sshd import HOST, Server
from medssl.core.project.elsewhere import elsewhere
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QLabel

import napari_medssl
from docs.tour.camera import Camera
from docs.tour.guide_text import Guide
from docs.tour.stage import JOB_TIMEOUT_S, Stage, failures_shown

PAGE = Path(__file__).parents[1] / "remote.md"
SIZE = 1280, 800
FILM_WIDTH = 1000
"""In pixels, so that sentences of the dock can be read."""
BETWEEN = 27
"""A slice of the sample's first scan between two painted ones."""
CUT_AT = 0.35
"""Completed share of the training at which the connection is killed."""
SHORT, LONG = 8, 24
"""Frames in which a sentence is read."""


def make_film(server: Server, out: Path, minutes: float) -> None:
    """Go through the page in a window and write remote.gif.

    Args:
        server: The other computer, which runs.
        out: Folder of the film.
        minutes: Time budget of the training.
    """
    QApplication.setAttribute(Qt.ApplicationAttribute.AA_DontUseNativeDialogs)
    page = Guide.read(PAGE, left_out=())
    with failures_shown(page, out):
        stage = Stage(napari_medssl.view(), page, SIZE)
        camera = Camera(stage.user, out, ["dark"], FILM_WIDTH)
        OnServer(stage, camera, server, minutes).run()
        camera.write_gif(out / "remote.gif")
        stage.close()


class OnServer:
    """Trains and predicts the sample project on a host of the ssh configuration."""

    def __init__(self, stage: Stage, camera: Camera, server: Server, minutes: float) -> None:
        self.stage, self.camera, self.server, self.minutes = stage, camera, server, minutes
        self.page, self.user, self.dock = stage.guide, stage.user, stage.dock

    def run(self) -> None:
        """All of it, in the order of the film."""
        self.open()
        self.choose()
        self.train()
        self.cut()
        self.finish()
        self.predict()
        self.show_prediction()

    def open(self) -> None:
        """The sample project, at a slice that is not painted."""
        stage, user = self.stage, self.user
        self.caption("Two synthetic CTs; five slices of the first are painted.")
        user.click(self.dock.scans.welcome.sample)
        stage.wait(lambda: self.dock.session.project is not None and stage.scan, "the sample project", 120)
        user.go_to_slice(BETWEEN)
        user.open_step(4)
        user.dismiss_notifications()
        self.camera.add_frame(SHORT)

    def choose(self) -> None:
        """Run on."""
        step = self.dock.finetune
        self.page("*Run on* lists the hosts of your ssh configuration, without patterns")
        names = self.stage.entries(step.run_on)
        self.stage.check(HOST in names and not any("*" in name for name in names), f"Run on lists {names}.")
        self.page("estimates of time are always computed on your computer.")
        self.caption(f"Run on: {HOST}, a host of the ssh configuration.")
        self.user.pick(step.run_on, HOST)
        self.wait_to_read(f"Runs on {HOST}")
        self.wait_to_read(f"Trainings and predictions run on {HOST}")
        self.user.set_minutes(step.minutes, self.minutes)
        self.camera.add_frame(SHORT)

    def train(self) -> None:
        """Start it there, and come to the step at which the connection is cut."""
        job = self.dock.session
        self.page("Scans stay on your computer, you paint there, and the server trains:")
        self.caption(f"The training is sent to {HOST} and runs there.")
        self.user.click(self.dock.finetune.start)
        self.wait_to_read(f"Connecting to {HOST}")
        with self.camera.filming(500, most=20):
            self.stage.wait(lambda: job.job.phase == "fine-tuning", "the first step", JOB_TIMEOUT_S)

        def has_come() -> bool:
            state = job.job
            return not state.running or (state.phase == "fine-tuning" and state.fraction > CUT_AT)

        with self.camera.filming(800, most=30):
            self.stage.wait(has_come, "the training", JOB_TIMEOUT_S)
        self.stage.check(job.job.running, f"{job.job.phase}: {job.job.error}")

    def cut(self) -> None:
        """Kill the connection, and wait until it is made anew."""
        self.page("## When the connection breaks The training goes on there. The connection is made anew")
        self.caption("Outside of this window, the connection is killed.")
        self.server.cut()
        self.wait_to_read(f"The connection to {HOST} broke")
        self.camera.add_frame(LONG)
        self.page("what has happened meanwhile is told then.")
        self.caption("It is made anew; the training has gone on meanwhile.")
        self.wait_to_read(f"{HOST} is connected again")
        self.camera.add_frame(LONG // 2)

    def finish(self) -> None:
        """The end of the training, whose weights and first prediction come back."""
        dock, stage = self.dock, self.stage
        with self.camera.filming(1000, most=40):
            stage.job_ends()
        self.page("The run is one of your project, like those that were trained here:")
        run = dock.session.runs("finetune")[0]
        stage.check(elsewhere(run) is None, f"{run.id} is one of this computer now.")
        stage.check(dock.workspace.prediction_layer.data.any(), "The scan on the screen is segmented.")
        self.wait_to_read("Finished")
        self.caption("Weights and the prediction of this scan have come back.")
        self.camera.add_frame(SHORT)

    def predict(self) -> None:
        """The scans that are not segmented, there as well."""
        step = self.dock.prediction
        self.page("It holds for trainings and predictions;")
        self.user.open_step(5)
        self.camera.add_frame(SHORT)
        before = len(self.server.connections())
        self.caption(f"All other scans are segmented on {HOST}, too.")
        self.user.click(step.review.segment_all)
        self.wait_to_read(f"Connecting to {HOST}")
        with self.camera.filming(500, most=24):
            self.stage.job_ends()
        self.stage.check(len(self.server.connections()) == before + 1, "It was segmented there.")
        self.user.dismiss_notifications()

    def show_prediction(self) -> None:
        """The prediction on the second scan, which nobody has painted."""
        stage, user, work = self.stage, self.user, self.dock.workspace
        table, first = self.dock.prediction.review.table, stage.scan
        stage.wait(lambda: table.rowCount() == 2, "both scans in the table")
        self.caption("The prediction of the second scan, which nobody has painted.")
        user.click_row(table, next(row for row in range(2) if table.item(row, 0).text() != first))
        stage.wait(lambda: stage.scan != first and work.prediction_layer is not None, "the second scan")
        session = self.dock.session
        saved = session.project.prediction(session.runs("finetune")[0].id, session.scan)
        shown = np.asarray(work.prediction_layer.data)
        stage.check(saved is not None and saved.any() and np.array_equal(saved, shown), "It is shown.")
        for index in range(BETWEEN - 5, BETWEEN + 6):
            user.go_to_slice(index)
            QTest.qWait(100)
            self.camera.add_frame()
        self.camera.add_frame(LONG)

    # --- what is seen --------------------------------------------------------------------------------

    def caption(self, text: str) -> None:
        """Say below the frames what is done now."""
        print(f"    {text}", flush=True)
        self.camera.caption = text

    def wait_to_read(self, words: str) -> None:
        """Wait until the dock shows some words, and all of the sentence that has them."""

        def is_shown() -> bool:
            labels = self.dock.findChildren(QLabel)
            return any(words in label.text() and is_whole(label) for label in labels)

        self.stage.wait(is_shown, f"to read {words!r}")


def is_whole(label: QLabel) -> bool:
    """Whether all of a label is on the screen and none of its text is cut off."""
    fits = label.height() >= max(label.heightForWidth(label.width()), label.fontMetrics().height())
    return label.isVisible() and label.visibleRegion().boundingRect() == label.rect() and fits
