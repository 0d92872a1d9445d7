"""How long the dock takes to open after napari stands: python benchmarks/dock.py

Each time in a process of its own, so that nothing of ours is imported yet. Needs a screen (xvfb-run).
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

TIMES = 5


def open_once() -> float:
    """Seconds from asking napari for the dock until it is drawn."""
    import napari
    from qtpy.QtTest import QTest

    viewer = napari.Viewer(show=True)
    QTest.qWait(1500)  # napari stands
    begin = time.perf_counter()
    _, dock = viewer.window.add_plugin_dock_widget("napari-medssl")
    while not dock.isVisible():
        QTest.qWait(1)
    dock.repaint()
    seconds = time.perf_counter() - begin
    viewer.close()
    return seconds


def main() -> None:
    """Measure and print one line."""
    if sys.argv[1:] == ["once"]:
        print(open_once())
        return
    seconds = []
    for _ in range(TIMES):
        told = subprocess.run([sys.executable, __file__, "once"], check=True, capture_output=True, text=True)
        seconds.append(float(told.stdout.split()[-1]))
    middle, slowest = statistics.median(seconds), max(seconds)
    print(f"The dock opens in {middle:.2f} s (median of {TIMES}, slowest {slowest:.2f} s); goal 1 s.")


if __name__ == "__main__":
    main()
