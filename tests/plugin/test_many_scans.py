"""A project of 500 scans in the window: in the table, in the review queue, and the last one on the screen."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from medssl.core.project.project import Project
from napari.components import ViewerModel
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from user_simulation import open_and_wait

from napari_medssl.widgets import Dock
from napari_medssl.widgets.scan_table import NAME

COUNT = 500


@pytest.fixture
def project(small_project: Project) -> Project:
    """500 scans with one content, all but one segmented."""
    (first,) = small_project.scans.values()
    others = [replace(first, id=f"s{number:03}") for number in range(1, COUNT)]
    small_project.change(lambda now: replace(now, scans=(first, *others)))
    labels = np.zeros(first.geometry.shape_zyx, np.uint8)
    labels[2:5, 2:6, 2:6] = 1
    run = small_project.new_run("finetune", {"job": "finetune"}, "finetune")
    run.checkpoint.write_bytes(b"weights")
    path = small_project.save_prediction(run.id, first.id, labels, expected_dice={1: 0.5})
    images = small_project.root / "scans"
    for number, scan in enumerate(others):
        shutil.copy(images / f"{first.id}.npy", images / f"{scan.id}.npy")
        if number:
            shutil.copy(path, path.with_name(path.name.replace(first.id, scan.id)))
    return small_project


def test_500_scans_are_in_the_table_and_in_the_queue_and_the_last_one_opens(qtbot, said, project):
    dock = Dock(ViewerModel())
    qtbot.addWidget(dock)
    dock.resize(345, 700)
    dock.show()
    open_and_wait(dock, project.root)
    table, review = dock.scans.table, dock.prediction.review
    assert table.rowCount() == COUNT and table.item(COUNT - 1, NAME).text().startswith("s499\n")
    assert dock.scans.summary() == "500 scans" and table.height() < 400

    table.scrollToBottom()
    place = table.visualItemRect(table.item(COUNT - 1, NAME)).center()
    QTest.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=place)
    qtbot.waitUntil(lambda: dock.session.scan == "s499", timeout=10_000)
    assert table.currentRow() == COUNT - 1
    dock.scans.table.step(-1)
    qtbot.waitUntil(lambda: dock.session.scan == "s498", timeout=10_000)

    qtbot.waitUntil(lambda: len(review.queue.items) == COUNT - 1, timeout=30_000)
    dock.steps[4].expand()
    assert review.table.rowCount() == COUNT - 1 and review.table.height() < 200
    assert review.state.text().startswith("0 of 499 accepted")
    assert "1 of 500 scans have to be segmented." in dock.prediction.status.text()
    review.next_button.click()
    qtbot.waitUntil(lambda: dock.session.scan == "s499", timeout=10_000)
    review.accept_button.click()
    qtbot.waitUntil(lambda: review.state.text().startswith("1 of 499 accepted"), timeout=30_000)
    assert review.segment_all.isEnabled() and not said
    dock._leave()
