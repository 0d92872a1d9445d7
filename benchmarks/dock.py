"""Time that the dock takes to open once napari is up: python benchmarks/dock.py

Each measurement runs in a new process, so that nothing of ours is imported yet. Needs a display (xvfb-run).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

REPEATS = 5


def open_once() -> float:
    """Seconds from the request for the dock until it is drawn."""
    import napari
    from qtpy.QtTest import QTest

    viewer = napari.Viewer(show=True)
    QTest.qWait(1500)  # until napari has finished starting
    begin = time.perf_counter()
    _, dock = viewer.window.add_plugin_dock_widget("napari-medssl")
    while not dock.isVisible():
        QTest.qWait(1)
    dock.repaint()
    seconds = time.perf_counter() - begin
    viewer.close()
    return seconds


def main() -> None:
    """Run the benchmark and print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--once", action="store_true", help="measure once, in this process")
    if parser.parse_args().once:
        print(open_once())
        return
    seconds, command = [], [sys.executable, __file__, "--once"]
    for _ in range(REPEATS):
        child = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds.append(float(child.stdout.split()[-1]))
    median, slowest = statistics.median(seconds), max(seconds)
    print(f"The dock opens in {median:.2f} s (median of {REPEATS}, slowest {slowest:.2f} s); goal 1 s.")


if __name__ == "__main__":
    main()
