"""What a user is asked who closes the window or the dock, and that it is asked once."""

from __future__ import annotations

import shutil

import napari
import pytest
import scenes
from qtpy.QtCore import QTimer
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QAbstractButton, QApplication, QMessageBox, QPushButton
from user_simulation import wait_until

pytestmark = pytest.mark.viewer
NAPARIS, OURS = "Close Window?", "Close the window"


class Answers:
    """Presses a button of every question that opens, and keeps their titles."""

    def __init__(self, button: str) -> None:
        self.asked: list[str] = []
        self.told = ""
        self._button = button
        self._timer = QTimer()
        self._timer.timeout.connect(self._press)
        self._timer.start(20)

    def _press(self) -> None:
        box = QApplication.activeModalWidget()
        if box is None:
            return
        self.asked.append(box.windowTitle())
        if isinstance(box, QMessageBox):
            self.told = box.informativeText()
        buttons = {each.text(): each for each in box.findChildren(QAbstractButton)}
        buttons.get(self._button, buttons.get("Close") or buttons.get("Go on")).click()


def is_gone(window) -> bool:
    try:
        return not window.isVisible()
    except RuntimeError:  # Qt has deleted it
        return True


@pytest.fixture
def opened(tmp_path, qapp, napari_app):
    """A viewer that the test closes, with a scan on the screen."""
    viewer = napari.Viewer()
    _, dock = viewer.window.add_plugin_dock_widget("napari-medssl")
    dock.scans.add([scenes.small_phantom(tmp_path).path])
    wait_until(lambda: dock.session.scan is not None and not dock.scans.adder.busy, 20, "opening")
    window = dock.window()
    yield viewer, dock
    if not is_gone(window):
        viewer.close()


def lose_the_project(dock) -> None:
    """Strokes can no longer be saved."""
    dock.workspace.new_annotation()
    shutil.rmtree(dock.session.project.root)
    dock.workspace.annotation_layer.paint((3, 3, 3), 1)


def test_who_leaves_napari_while_a_job_runs_is_asked_by_us_alone(opened):
    _, dock = opened
    window, answers = dock.window(), Answers("Go on")
    dock.session.begin("pretrain")
    window.close(quit_app=True, confirm_need=True)  # as Ctrl+Q does
    assert answers.asked == [OURS] and window.isVisible()
    answers = Answers("Stop and close")
    window.close(confirm_need=True)  # as Ctrl+W does
    assert answers.asked == [OURS] and is_gone(window)


def test_without_a_job_napari_asks_alone(opened):
    _, dock = opened
    window, answers = dock.window(), Answers("Cancel")
    window.close(quit_app=True, confirm_need=True)  # as Ctrl+Q does
    window.close(confirm_need=True)
    assert answers.asked == ["Close Application?", NAPARIS] and window.isVisible()


@pytest.mark.parametrize("by_cross", [True, False])
def test_strokes_that_cannot_be_saved_are_one_question(opened, by_cross):
    _, dock = opened
    lose_the_project(dock)
    window = dock.window()

    def close() -> None:
        window.windowHandle().close() if by_cross else window.close(confirm_need=True)
        QTest.qWait(100)

    answers = Answers("Go on")
    close()
    assert answers.asked == [OURS] and window.isVisible()
    answers = Answers("Lose them and close")
    close()
    assert answers.asked == [OURS] and is_gone(window)


@pytest.mark.parametrize("floating", [False, True])
def test_who_closes_the_dock_while_a_job_runs_is_asked(opened, floating):
    _, dock = opened
    panel = dock.parentWidget()
    panel.setFloating(floating)
    dock.session.begin("pretrain")

    def press_cross() -> None:
        panel.titleBarWidget().findChild(QPushButton, "QTitleBarCloseButton").click()

    answers = Answers("Go on")
    press_cross()
    assert answers.asked == ["Close the dock"] and not dock.session.closed and dock.isVisible()
    session, answers = dock.session, Answers("Stop and close")
    press_cross()
    assert answers.asked == ["Close the dock"] and session.closed


def test_a_floating_dock_does_not_let_the_window_close_unasked(opened):
    _, dock = opened
    window, answers = dock.window(), Answers("Go on")
    dock.parentWidget().setFloating(True)
    dock.session.begin("pretrain")
    window.windowHandle().close()
    assert answers.asked == [OURS] and window.isVisible()


def test_a_window_whose_dock_is_gone_closes_as_napari_does(opened):
    viewer, dock = opened
    window, answers = dock.window(), Answers("Close")
    viewer.window.remove_dock_widget(dock)
    window.close(confirm_need=True)
    assert answers.asked == [NAPARIS] and is_gone(window)


def test_who_closes_the_window_while_a_job_runs_on_another_computer_is_told_that_it_goes_on(opened):
    _, dock = opened
    window, answers = dock.window(), Answers("Close")
    dock.session.begin("pretrain", "gpu1")
    window.close(confirm_need=True)
    assert answers.asked == [OURS] and is_gone(window)
    assert "It goes on on gpu1 when the window closes" in answers.told
