"""A large CT in the window: opening, slice changes, strokes: python benchmarks/reading.py

Opens a window (under Xvfb: xvfb-run -a -s "-screen 0 1400x1000x24" python benchmarks/reading.py) on a
synthetic CT of 512 x 512 x 300 voxels, a NIfTI file of int16. Measured are: from the call to open the file
until its slice is on the screen, for a new project and for one that has the scan already; from a key or a
notch of the wheel until all that shows another slice has been drawn, with one canvas and with three planes;
and, as in preview.py, from the end of a stroke until its outlines are on the screen. --profile FILE keeps a
cProfile of the slice changes in three planes.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from medssl.benchmarking.report import markdown_table
from medssl.benchmarking.surroundings import window_text
from preview import Scene, add_features, begin_to_paint, stroke_times, write_scan
from qtpy.QtCore import QEvent, QObject, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QWidget

sys.path.append(str(Path(__file__).parents[1] / "tests" / "plugin"))
from user_simulation import UserSimulation, open_window, wait_until

SCENE = Scene((300, 512, 512), (150, 250, 250), 90, (4, 4, 4))
SMALL = Scene((60, 128, 128), (30, 62, 62), 22, (1, 2, 2))
PAUSE_MS = 150
"""Between two slices: the time to see one."""


class Drawn(QObject):
    """Waits until widgets have been drawn again."""

    def __init__(self, canvas: QWidget, planes: Sequence[QWidget]) -> None:
        super().__init__()
        self._waiting: set[QWidget] = set()
        canvas.frameSwapped.connect(lambda: self._waiting.discard(canvas))
        for plane in planes:
            plane.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """A plane is drawn before control comes back from this event."""
        if event is not None and event.type() == QEvent.Type.Paint:
            self._waiting.discard(watched)
        return False

    def ms_after(self, action: Callable[[], object], widgets: Sequence[QWidget]) -> float:
        """Milliseconds from an action until all widgets have been drawn."""
        self._waiting = set(widgets)
        begin = time.perf_counter()
        action()
        while self._waiting:
            QApplication.processEvents()
            assert time.perf_counter() - begin < 20, f"not drawn: {self._waiting}"
        return 1e3 * (time.perf_counter() - begin)


def slice_times(drawn: Drawn, action: Callable[[int], object], widgets: Sequence[QWidget], count: int):
    """Milliseconds of some slice changes, (count,)."""
    times = []
    for number in range(count + 3):  # the first ones load modules and fill caches
        QTest.qWait(PAUSE_MS)
        times.append(drawn.ms_after(lambda number=number: action(number), widgets))
    return np.array(times[3:])


def wheel(widget: QWidget) -> None:
    """One notch, away from the user."""
    middle = QPointF(widget.rect().center())
    nothing, notch = QPointF().toPoint(), QPointF(0, 120).toPoint()
    buttons, keys = Qt.MouseButton.NoButton, Qt.KeyboardModifier.NoModifier
    event = QWheelEvent(
        middle, QPointF(widget.mapToGlobal(middle)), nothing, notch, buttons, keys,
        Qt.ScrollPhase.NoScrollPhase, False,
    )  # fmt: skip
    QApplication.sendEvent(widget, event)


def ms_to_open(dock: QWidget, action: Callable[[], object]) -> np.ndarray:
    """Milliseconds until the first slice is on the screen, (1,)."""
    begin = time.perf_counter()
    action()
    wait_until(lambda: dock.workspace.scan_layer is not None, 120, "opening")
    QApplication.processEvents()
    return 1e3 * np.array([time.perf_counter() - begin])


def measure(folder: Path, scene: Scene, count: int, profile: str) -> dict[str, np.ndarray]:
    """Milliseconds by what was measured."""
    path, times = write_scan(folder / "ct.nii", scene), {}
    viewer, dock = open_window()
    times["opened, new project"] = ms_to_open(dock, lambda: dock.scans.add([path]))
    project = dock.session.project
    add_features(project, scene)
    viewer.close()
    viewer, dock = open_window()
    times["opened again"] = ms_to_open(dock, lambda: dock.open(project.root))
    QTest.qWait(1000)
    user = UserSimulation(viewer, dock)
    begin_to_paint(user, scene)
    dock.preview.toggle()

    def key(number: int) -> None:
        QTest.keyClick(user.canvas, Qt.Key.Key_Right)

    gc.collect()
    go_to_first_slice(user)
    times["slice change, one canvas"] = slice_times(Drawn(user.canvas, ()), key, [user.canvas], count)
    go_to_first_slice(user)
    dock.view_bar.switch_planes()
    QTest.qWait(500)
    planes = dock.reading.three_planes.planes
    drawn, profiler = Drawn(user.canvas, planes), cProfile.Profile()
    user.canvas.setFocus()
    if profile:
        profiler.enable()
    shown = [user.canvas, *planes]
    times["slice change, three planes, of the large one"] = slice_times(drawn, key, shown, count)
    times["slice change, three planes, of a small one"] = slice_times(
        drawn, lambda number: wheel(planes[number % 2]), planes, count
    )
    if profile:
        profiler.disable()
        profiler.dump_stats(profile)
    dock.view_bar.switch_planes()
    dock.preview.toggle()
    stroke_times(user, 3, 0, scene)
    times["stroke to outlines"] = stroke_times(user, count, 1, scene)[:, 1]
    viewer.close()
    return times


def go_to_first_slice(user: UserSimulation) -> None:
    """So that there is a next slice as often as the key is pressed."""
    user.dock.workspace.go_to(0, 0)
    user.canvas.setFocus()
    QTest.qWait(500)


GOALS_MS = {"opened": 10_000, "slice": 100, "stroke": 150}


def main() -> None:
    """Run the benchmark and print a table for docs/benchmarks/reading.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=30, help="slice changes and strokes of each kind")
    parser.add_argument("--small", action="store_true", help="a small scan, to see that it works")
    parser.add_argument("--profile", default="", help="write a cProfile of the slice changes in three planes")
    options = parser.parse_args()
    scene = SMALL if options.small else SCENE
    with tempfile.TemporaryDirectory() as folder:
        times = measure(Path(folder), scene, options.count, options.profile)
    small = " --small" * options.small
    print(f"`python benchmarks/reading.py --count {options.count}{small}`, {window_text()};")
    print(f"{scene.size_text} voxels (x, y, z), milliseconds, {options.count} of each but the first two:\n")
    rows = []
    for name, values in times.items():
        slowest = f"{values.max():.0f}" if len(values) > 1 else ""
        rows.append([name, f"{np.median(values):.0f}", slowest, f"{GOALS_MS[name.split()[0].strip(',')]}"])
    print(markdown_table(["", "median", "slowest", "goal"], rows))


if __name__ == "__main__":
    main()
