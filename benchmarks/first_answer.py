"""Time from a click on "Fine-tune" to a first segmentation: python benchmarks/first_answer.py --work DIR

Three slices of two scans are annotated, a slice of another scan is on the screen, and the engine was started
in advance, as in the viewer: same child process, same protocol. Measured is the time from the job to the
first preview of that slice, which the network makes before its first training step. The first training of a
project also measures the number of threads.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from few_slices_data import DATASETS, open_dataset
from medssl.benchmarking.protocol import Material, annotate_for
from medssl.benchmarking.surroundings import surroundings
from medssl.core import events, jobs
from medssl.core.jobs import FinetuneJob
from medssl.tasks.plan.step_times import file_of

GOAL_S, SLICES = 3, 3


def answer(material: Material, warm_s: float) -> tuple[float, float]:
    """Seconds from the job to the first preview, and to the next one, after some training steps."""
    project = material.project
    shown = next(scan for scan in material.references if scan not in project.annotated())
    shape = project.scans[shown].geometry.shape_zyx
    job = FinetuneJob(project=str(project.root), weights="shapes", minutes=0.2)
    path = project.root / "job.json"
    jobs.write_job(path, job)
    child = subprocess.Popen(
        [sys.executable, "-u", "-m", "medssl", "run", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdin is not None and child.stdout is not None
    time.sleep(warm_s)
    begin = time.perf_counter()
    print(events.SliceInView(shown, 0, shape[0] // 2).to_line(), file=child.stdin, flush=True)
    print("job", path.resolve(), file=child.stdin, flush=True)
    times: list[float] = []
    for line in child.stdout:
        event = events.from_line(line)
        if isinstance(event, events.Failed):
            raise SystemExit(event.text)
        if isinstance(event, events.SlicePreview):
            times.append(time.perf_counter() - begin)
        if len(times) == 2:
            break
    child.communicate("stop\n")
    return times[0], times[1]


def main() -> None:
    """Run the benchmark and print the times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    add("--work", type=Path, required=True, help="scratch folder for projects")
    add("--datasets", default="hippocampus,ct")
    add("--times", type=int, default=5)
    add("--warm", type=float, default=15.0, help="seconds between the engine's start and the click")
    options = parser.parse_args()
    for name in options.datasets.split(","):
        material = open_dataset(options.data, name, options.work, lambda event: None, DATASETS[name])
        annotate_for(material, 0, SLICES)
        file_of(material.project.root).unlink(missing_ok=True)
        times = [answer(material, options.warm) for _ in range(1 + options.times)]
        for label, column in (("first preview", 0), ("second preview", 1)):
            seconds = [each[column] for each in times[1:]]
            print(
                f"{name}, {label}: {statistics.median(seconds):.2f} s ({min(seconds):.2f} to "
                f"{max(seconds):.2f}); in the first training of a project {times[0][column]:.2f} s"
            )
    print(f"medians of {options.times}; goal: a first preview within {GOAL_S} s; {surroundings('cpu')}")


if __name__ == "__main__":
    main()
