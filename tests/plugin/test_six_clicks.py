"""From `napari CT.nii.gz` to the first overlay: at most six clicks besides painting, all of them counted.

Painting is strokes on the canvas, the arrow keys between slices and K for "this slice is complete". Nothing
else is pressed: the training keeps its own choices, only its minutes are fewer here, to keep the test short.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from napari_start import open_as_napari_does, open_dock_by_menu, press_ok
from qtpy.QtCore import Qt
from user_simulation import ClickCounter, wait_until

from napari_medssl.widgets import Dock

pytestmark = pytest.mark.viewer
MOST_CLICKS = 6
MINUTES = 0.3


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
    before = open_as_napari_does(viewer, path, press_ok) + open_dock_by_menu(viewer)
    dock = next(widget for widget in viewer.window.dock_widgets.values() if isinstance(widget, Dock))
    user = ClickCounter(viewer, dock)
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
    clicks = before + len(user.clicked)
    print(f"\n{path.name}: {clicks} clicks besides painting")
    assert clicks <= MOST_CLICKS
    wait_until(lambda: not dock.session.job.running, 240, "the fine-tuning")
    prediction = dock.workspace.prediction_layer
    assert prediction is not None and prediction.visible and prediction.data.any(), said
