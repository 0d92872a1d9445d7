"""From `napari CT.nii.gz` to the first overlay: at most six clicks besides painting, all of them counted.

Painting is strokes on the canvas, the arrow keys between slices and K for "this slice is complete". Nothing
else is pressed: the training keeps its own choices, only its minutes are fewer here, to keep the test short.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtCore import Qt, QTimer
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QDialogButtonBox, QMenu, QMenuBar, QRadioButton, QWidget
from user_simulation import LEFT, UserSimulation, wait_until

from napari_medssl.widgets import Dock

pytestmark = pytest.mark.viewer
MOST_CLICKS = 6
MINUTES = 0.3
TITLE = "Train on few slices"


class CountingHand(UserSimulation):
    """A hand that counts its clicks; it starts with the viewer alone, the dock comes by the menu."""

    def __init__(self, viewer, clicks: int) -> None:
        self.viewer, self.clicks = viewer, clicks
        menus = next(each for each in _top(viewer).findChildren(QMenuBar) if each.isVisible())
        menu = self._menu_click(menus, "Plugins").menu()
        wait_until(menu.isVisible, 10, "the menu")
        while not any(isinstance(each, Dock) for each in viewer.window.dock_widgets.values()):
            action = self._menu_click(menu, TITLE)
            menu = action.menu() or menu
            QTest.qWait(300)
        super().__init__(viewer, next(w for w in viewer.window.dock_widgets.values() if isinstance(w, Dock)))

    def click(self, widget: QWidget) -> None:
        """Count it."""
        self.clicks += 1
        super().click(widget)

    def _menu_click(self, menu: QMenuBar | QMenu, text: str):
        action = next(
            each for each in menu.actions() if text in each.text().replace("&", "") or _leads_to(each, text)
        )
        self.clicks += 1
        QTest.mouseClick(menu, LEFT, pos=menu.actionGeometry(action).center())
        return action


def open_as_napari_does(viewer, path: Path) -> int:
    """Open a path as `napari PATH` does; the clicks that its question for a reader takes."""
    clicks: list[str] = []

    def answer() -> None:
        question = QApplication.activeModalWidget()
        if question is None or clicks:
            return
        ours = next(each for each in question.findChildren(QRadioButton) if each.text() == "medssl")
        assert ours.isChecked()
        clicks.append("OK")
        ok = question.findChild(QDialogButtonBox).button(QDialogButtonBox.StandardButton.Ok)
        QTest.mouseClick(ok, LEFT)

    timer = QTimer(interval=200)
    timer.timeout.connect(answer)
    timer.start()
    viewer.window._qt_viewer._qt_open([str(path)], stack=False)
    timer.stop()
    return len(clicks)


def _leads_to(action, text: str) -> bool:
    inside = action.menu()
    return inside is not None and any(text in each.text().replace("&", "") for each in inside.actions())


def _top(viewer) -> QWidget:
    return next(each for each in QApplication.topLevelWidgets() if each.findChildren(QMenuBar))


@pytest.mark.timeout(280)
@pytest.mark.data
@pytest.mark.parametrize(
    "name", ["HeadNeckCT_OpenKBP/imagesTr/openkbp_002.nii.gz", "robustness/dicom_series_ct_head_small"]
)
def test_six_clicks_from_an_open_file_to_an_overlay(make_napari_viewer, data, tmp_path, name):
    source, path = data / name, tmp_path / Path(name).name
    (shutil.copytree if source.is_dir() else shutil.copyfile)(source, path)
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1280, 800)
    user = CountingHand(viewer, clicks=open_as_napari_does(viewer, path))
    dock = user.dock
    said: list[str] = []
    dock.session.message.connect(lambda severity, text: said.append(text))
    dock.finetune.minutes.setValue(MINUTES)

    user.click(dock.scans.use_open_layers)
    user.click(dock.scans.new_project.agree)
    wait_until(lambda: dock.session.scan is not None and dock.steps[1].isExpanded(), 30, "taking the scan")
    layer, scan = dock.workspace.annotation_layer, np.asarray(dock.workspace.scan_layer.data)
    for index in (len(scan) // 3, len(scan) // 2):
        user.go_to_slice(index)
        rows, columns = scan.shape[1] // 3, scan.shape[2] // 3
        middle = np.zeros(scan.shape[1:], bool)
        middle[rows : 2 * rows : 5, columns : 2 * columns] = True
        user.paint_rows(layer, index, middle)
        user.key(Qt.Key.Key_K)
    assert len(dock.session.annotation.complete) == 2 and layer.data.any()

    wait_until(dock.train.isEnabled, 20, "saving what was painted")
    user.click(dock.train)
    print(f"\n{path.name}: {user.clicks} clicks besides painting")
    assert user.clicks <= MOST_CLICKS
    wait_until(lambda: not dock.session.job.running, 240, "the fine-tuning")
    prediction = dock.workspace.prediction_layer
    assert prediction is not None and prediction.visible and prediction.data.any(), said
