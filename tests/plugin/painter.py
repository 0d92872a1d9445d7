"""A viewer that paints by mouse until it is killed: python painter.py project [first stroke].

Prints "holds N" once it is ready (N voxels are painted), and after each stroke, when the mouse is up, how
many voxels of its place are painted.
"""

from __future__ import annotations

import sys
from pathlib import Path

import napari
import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from user_simulation import UserSimulation, open_and_wait

WIDTH, ROWS = 8, 10


def place(number: int) -> tuple[int, int, int]:
    """Slice, row and first column of a stroke; each has its own."""
    return number // ROWS % 12, 2 * (number % ROWS), 2 + number // (12 * ROWS) * (WIDTH + 2)


def main(root: Path, first: int) -> None:
    """Paint one stroke after the other."""
    viewer = napari.Viewer()
    viewer.window.resize(1100, 800)
    _, dock = viewer.window.add_plugin_dock_widget("napari-medssl")
    QTest.qWait(300)
    open_and_wait(dock, root)
    dock.workspace.new_annotation()
    layer = dock.workspace.annotation_layer
    layer.brush_size = 1
    user = UserSimulation(viewer, dock)
    QTest.qWait(100)
    print(f"holds {np.count_nonzero(layer.data)}", flush=True)
    for number in range(first, 12 * ROWS * 2):
        index, row, column = place(number)
        dock.workspace.go_to(0, index)
        QTest.qWait(5)
        user.drag(layer, (index, row, column), (index, row, column + WIDTH - 1))
        print(np.count_nonzero(layer.data[index, row, column : column + WIDTH]), flush=True)
        if number % 7 == 3:
            user.key(Qt.Key.Key_K)
        QTest.qWait(number * 37 % 120)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
