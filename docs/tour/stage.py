"""A window of the program, the guide, and the simulated user that goes through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from napari import Viewer
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QComboBox, QPushButton
from user_simulation import wait_until
from user_window import WindowUser

from docs.tour.guide_text import Guide
from napari_medssl.widgets import Dock

JOB_TIMEOUT_S = 900
"""Seconds that a job may take on a busy machine."""


@contextmanager
def failures_shown(guide: Guide, out: Path) -> Iterator[None]:
    """Take a picture of the screen where something fails, and say what was quoted last.

    Args:
        guide: The guide, or another page.
        out: Folder of the picture.

    Raises:
        AssertionError: Something has failed.
    """
    try:
        yield
    except Exception as error:
        picture = out / "failed.png"
        QApplication.primaryScreen().grabWindow(0).save(str(picture))
        raise AssertionError(f"The guide says {guide.last!r}. {error} ({picture})") from error


class Stage:
    """One window of the program, and what was said in it."""

    def __init__(self, viewer: Viewer, guide: Guide, size: tuple[int, int]) -> None:
        self.viewer, self.guide = viewer, guide
        self.dock = next(each for each in viewer.window.dock_widgets.values() if isinstance(each, Dock))
        viewer.window.resize(*size)
        QTest.qWait(300)
        self.user = WindowUser(viewer, self.dock)
        self.said: list[str] = []
        self.dock.session.message.connect(lambda severity, text: self.said.append(text))

    def close(self) -> None:
        """Close the window; its engines end."""
        self.viewer.close()
        QTest.qWait(1000)

    # --- what the window answers ---------------------------------------------------------------------

    def wait(self, condition: Callable[[], object], what: str, seconds: float = 60) -> None:
        """Wait for an answer; what was said meanwhile is part of the failure."""
        try:
            wait_until(condition, seconds, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; the window said {self.said[-5:]}") from None

    def wait_for_message(self, words: str) -> None:
        """Wait until the window has said some words; forget what it said before."""
        self.wait(lambda: any(words in text for text in self.said), f"{words!r}")
        self.said.clear()

    def check(self, holds: object, sentence: str) -> None:
        """Compare the window with the guide.

        Raises:
            AssertionError: It does not do what the guide says.
        """
        assert holds, f"{sentence} (the window said {self.said[-3:]})"

    def job_ends(self) -> None:
        """Wait for the end of a job, which must not fail."""
        job = self.dock.session
        self.wait(lambda: not job.job.running, f"the end of {job.job.title}", JOB_TIMEOUT_S)
        self.check(job.job.phase != "Failed", f"{job.job.title}: {job.job.error}")

    def job_comes_to(self, fraction: float) -> None:
        """Wait until a job has come so far."""
        session = self.dock.session

        def has_come() -> bool:
            return session.job.fraction > fraction or not session.job.running

        self.wait(has_come, session.job.title, JOB_TIMEOUT_S)

    @property
    def cross(self) -> QPushButton:
        """The button that closes the dock."""
        return self.dock.parentWidget().titleBarWidget().findChild(QPushButton, "QTitleBarCloseButton")

    # --- short words for what is looked at often ------------------------------------------------------

    @property
    def labels(self) -> np.ndarray:
        """The annotation on the screen, (Z, Y, X)."""
        return np.asarray(self.dock.workspace.annotation_layer.data)

    @property
    def complete(self) -> tuple[tuple[int, int], ...]:
        """The complete slices of the scan on the screen."""
        return self.dock.session.annotation.complete

    @property
    def scan(self) -> str:
        """Name of the scan on the screen."""
        session = self.dock.session
        return session.project.scans[session.scan].title if session.scan else ""

    def scans(self) -> list[str]:
        """Names in the table of step 1."""
        return [scan.title for scan in self.dock.session.project.scans.values()]

    def open_scan(self, name: str) -> None:
        """Click the row of a scan in step 1."""
        self.user.open_step(1)
        self.user.click_row(self.dock.scans.table, self.scans().index(name))
        self.wait(lambda: self.scan == name, f"the scan {name}")

    def layer_named(self, name: str):
        """A layer of the viewer."""
        return next((layer for layer in self.viewer.layers if layer.name == name), None)

    def undo(self) -> None:
        """Ctrl+Z."""
        self.user.key_with(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)

    def disabled_tooltip(self, control) -> str:
        """Hold the pointer over a control that is grey."""
        self.check(not control.isEnabled(), f"{control.text()} should be grey")
        return self.user.tooltip(control)

    def entries(self, box: QComboBox) -> list[str]:
        """What a list offers."""
        return [box.itemText(number) for number in range(box.count())]

    def paint_dot(self, voxel_zyx: Sequence[int], length: int = 3) -> None:
        """A short stroke of some voxels along x."""
        layer = self.dock.workspace.annotation_layer
        z, y, x = voxel_zyx
        self.user.drag(layer, (z, y, x), (z, y, x + length))
        QTest.qWait(30)
