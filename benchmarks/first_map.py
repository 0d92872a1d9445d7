"""Time from opening a scan to a similarity map, without training: python benchmarks/first_map.py

A synthetic scan of 256 x 256 x 128 voxels is added to a new project in a napari window (xvfb-run without a
display); when its features have been computed, one voxel is clicked. A timer of 5 ms measures how long the
window does not respond meanwhile. Each measurement runs in a new process, with the viewer's own engine.
--parts runs the same job in this process and prints the time of its parts.
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
GOAL_S, REPEATS, TICK_MS, TIMEOUT_S = 10, 3, 5, 600
VOXEL = (64, 128, 128)


def make_scan(path: Path) -> None:
    """Write blurred noise; the computing time does not depend on the content."""
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(0).normal(size=SHAPE_XYZ).astype(np.float32)
    nib.save(nib.Nifti1Image(1000 * gaussian_filter(noise, 3), np.diag([-1.0, -1.0, 1.5, 1])), path)


def open_once(folder: Path) -> dict[str, float]:
    """Seconds from adding the scan to each milestone, and the longest stall and 99th percentile of stalls."""
    import napari
    from qtpy.QtCore import QTimer
    from qtpy.QtTest import QTest

    from napari_medssl import layers

    viewer = napari.Viewer(show=True)
    _, dock = viewer.window.add_plugin_dock_widget("napari-medssl")
    QTest.qWait(2000)  # until napari has finished starting
    ticks: list[float] = []
    timer = QTimer(interval=TICK_MS)
    timer.timeout.connect(lambda: ticks.append(time.perf_counter()))

    def wait_for(condition: Callable[[], bool]) -> float:
        while not condition():
            QTest.qWait(1)
            assert time.perf_counter() < begin + TIMEOUT_S, "timeout"
        return time.perf_counter() - begin

    timer.start()
    begin = time.perf_counter()
    dock.scans.add([folder / "scan.nii.gz"])
    seconds = {"scan on the screen": wait_for(lambda: dock.session.scan is not None)}
    seconds["features requested"] = wait_for(lambda: dock.background_jobs.child is not None)
    seconds["features"] = wait_for(lambda: dock.session.features_valid("shapes"))
    wait_for(lambda: not dock.features.precompute.scan)
    dock.features.follow.click()
    dock.features.similarity.click(VOXEL)
    wait_for(lambda: layers.find(viewer.layers, layers.SIMILARITY) is not None)
    seconds["similarity map"] = wait_for(lambda: layers.find(viewer.layers, layers.SIMILARITY).visible)
    timer.stop()
    stalls = np.diff([begin, *ticks]) - TICK_MS / 1e3
    opened = np.array(ticks) > begin + seconds["features requested"]
    seconds["longest stall"], seconds["longest stall after that"] = stalls.max(), stalls[opened].max()
    seconds["99th percentile of stalls"] = float(np.percentile(stalls, 99))
    viewer.close()
    return {name: float(value) for name, value in seconds.items()}


def parts(folder: Path) -> dict[str, tuple[float, float]]:
    """(wall, CPU) seconds of the parts of the job; CPU seconds do not depend on other programs."""
    times: dict[str, tuple[float, float]] = {}

    def part(name: str, work: Callable[[], object]) -> object:
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        times[name] = (time.perf_counter() - wall, time.process_time() - cpu)
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
            lambda *args, work=work, label=label, **kwargs: part(label, lambda: work(*args, **kwargs)),
        )
    part("features, total", lambda: features.features(project, run, job, lambda event: None, lambda: False))
    cache = similarity.open_features(project, scan, run.id)
    part("map", lambda: similarity.similarity(cache, similarity.query_at(cache, VOXEL)))
    return times


def main() -> None:
    """Run the benchmark and print the times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=REPEATS)
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
            child = subprocess.run(command, check=True, capture_output=True, text=True)
        runs.append(json.loads(child.stdout.splitlines()[-1]))
    for name in runs[0]:
        seconds = [run[name] for run in runs]
        print(f"{name:24} {statistics.median(seconds):6.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")
    print(f"medians of {options.times}; goal: the map within {GOAL_S} s on two idle cores")


if __name__ == "__main__":
    main()
