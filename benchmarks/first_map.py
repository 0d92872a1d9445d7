"""How long it takes from opening a scan to a similarity map, nothing trained: python benchmarks/first_map.py

A synthetic scan of 256 x 256 x 128 voxels is added to a new project in a napari window (xvfb-run where there
is no screen), the features of it are awaited, and one voxel is clicked. In the meantime a timer that should
fire every 5 ms tells how long the window did not answer. Each time in a process of its own; the engine is the
viewer's own child. --parts runs the same job in this process and says where the time goes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE_XYZ = (256, 256, 128)
GOAL_S, TIMES, TICK_MS, PATIENCE_S = 10, 3, 5, 600
VOXEL = (64, 128, 128)


def make_scan(path: Path) -> None:
    """Blurred noise, as hard for the network as any scan of this size."""
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(0).normal(size=SHAPE_XYZ).astype(np.float32)
    nib.save(nib.Nifti1Image(1000 * gaussian_filter(noise, 3), np.diag([-1.0, -1.0, 1.5, 1])), path)


def open_once(folder: Path) -> dict[str, float]:
    """Seconds from adding the scan to each milestone, and the longest and the 99th of the stalls."""
    import napari
    from qtpy.QtCore import QTimer
    from qtpy.QtTest import QTest

    from napari_medssl import layers

    viewer = napari.Viewer(show=True)
    _, dock = viewer.window.add_plugin_dock_widget("napari-medssl")
    QTest.qWait(2000)  # the window stands
    ticks: list[float] = []
    timer = QTimer(interval=TICK_MS)
    timer.timeout.connect(lambda: ticks.append(time.perf_counter()))

    def wait_for(happened: Callable[[], bool]) -> float:
        while not happened():
            QTest.qWait(1)
            assert time.perf_counter() < begin + PATIENCE_S, "it took too long"
        return time.perf_counter() - begin

    timer.start()
    begin = time.perf_counter()
    dock.scans.add([folder / "scan.nii.gz"])
    took = {"scan on the screen": wait_for(lambda: dock.session.scan is not None)}
    took["features asked for"] = wait_for(lambda: dock.background_jobs.child is not None)
    took["features"] = wait_for(lambda: dock.session.features_valid("shapes"))
    wait_for(lambda: not dock.features.precompute.scan)
    dock.features.follow.click()
    dock.features.similarity.click(VOXEL)
    wait_for(lambda: layers.find(viewer.layers, layers.SIMILARITY) is not None)
    took["similarity map"] = wait_for(lambda: layers.find(viewer.layers, layers.SIMILARITY).visible)
    timer.stop()
    late = np.diff([begin, *ticks]) - TICK_MS / 1e3
    opened = np.array(ticks) > begin + took["features asked for"]
    took["longest stall"], took["longest stall after that"] = late.max(), late[opened].max()
    took["99th percentile of stalls"] = float(np.percentile(late, 99))
    viewer.close()
    return {name: float(value) for name, value in took.items()}


def parts(folder: Path) -> dict[str, tuple[float, float]]:
    """(wall, CPU) seconds of what the engine does; CPU seconds are the same beside other programs."""
    found: dict[str, tuple[float, float]] = {}

    def part(name: str, work: Callable[[], object]) -> object:
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        found[name] = (time.perf_counter() - wall, time.process_time() - cpu)
        return result

    def imports() -> None:
        import medssl.engine
        import medssl.tasks.inference.features  # noqa: F401

    part("engine import", imports)
    from medssl.core.features import similarity
    from medssl.core.jobs import FeaturesJob
    from medssl.core.project.project import Project
    from medssl.tasks.inference import features

    project = Project.create(folder / "parts")
    scan = part("read and add the scan", lambda: project.add_scan(folder / "scan.nii.gz")).id  # type: ignore[attr-defined]
    run, job = project.run("shapes"), FeaturesJob(str(project.root), weights="shapes", scans=(scan,))
    for module, name in ((features, "_basis"), (features, "_joined"), (features, "write_features")):
        work = getattr(module, name)
        label = {"_basis": "basis", "_joined": "network", "write_features": "write"}[name]
        setattr(
            module,
            name,
            lambda *given, work=work, label=label, **named: part(label, lambda: work(*given, **named)),
        )
    part("features in all", lambda: features.features(project, run, job, lambda event: None, lambda: False))
    cache = similarity.open_features(project, scan, run.id)
    part("map", lambda: similarity.similarity(cache, similarity.query_at(cache, VOXEL)))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=TIMES)
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--once", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        print(json.dumps(open_once(options.once)))
        return
    if options.parts:
        with tempfile.TemporaryDirectory() as folder:
            make_scan(Path(folder) / "scan.nii.gz")
            for name, (wall, cpu) in parts(Path(folder)).items():
                print(f"{name:24} {wall:6.2f} s, {cpu:6.2f} s of CPU")
        return
    runs: list[dict[str, float]] = []
    for _ in range(options.times):
        with tempfile.TemporaryDirectory() as folder:
            make_scan(Path(folder) / "scan.nii.gz")
            command = [sys.executable, "-W", "ignore", __file__, "--once", folder]
            told = subprocess.run(command, check=True, capture_output=True, text=True)
        runs.append(json.loads(told.stdout.splitlines()[-1]))
    for name in runs[0]:
        seconds = [run[name] for run in runs]
        print(f"{name:24} {statistics.median(seconds):6.2f} s (of {min(seconds):.2f} to {max(seconds):.2f})")
    print(f"medians of {options.times}; goal: the map within {GOAL_S} s on two idle cores")


if __name__ == "__main__":
    main()
