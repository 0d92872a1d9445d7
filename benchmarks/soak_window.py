"""Random actions of a user in a real napari window: python benchmarks/soak_window.py --seeds 10

Each seed runs in a new process (without a display: xvfb-run -a -s "-screen 0 1400x1000x24"). The user of
random_user.py and random_painter.py does anything at any time while networks train.
The window must not crash, no exception may be raised, and at the end the annotations on the disk must be what
was on the screen. Exit code 1 if a seed failed.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
from medssl.benchmarking.report import markdown_table
from medssl.benchmarking.surroundings import window_text
from random_painter import RandomPainter
from random_user import SHAPES_XYZ, TIMEOUT_S, make_scan
from user_simulation import open_window, wait_until


def make_projects(folder: Path) -> list[Path]:
    """Two projects: three scans with landmarks, and two without."""
    from medssl.core.features.landmarks import Landmark, Landmarks, write_landmarks
    from medssl.core.project.project import LabelClass, Project

    roots = []
    for number, count in enumerate((3, 2)):
        root = folder / f"project-{number}"
        project = Project.create(root, [LabelClass(1, "Ball", "#ff6f61"), LabelClass(2, "Rest", "#4fb3bf")])
        for index in range(count):
            shape = SHAPES_XYZ[(index + number) % len(SHAPES_XYZ)]
            project.add_scan(make_scan(folder / f"scan-{number}-{index}.nii.gz", shape, 10 * number + index))
        if number == 0:
            first = next(iter(project.scans))
            marks = tuple(Landmark(f"L{each}", first, (5 + each, 10, 12)) for each in range(3))
            write_landmarks(project, Landmarks(marks))
        roots.append(root)
    return roots


def run_seed(seed: int, actions: int) -> dict[str, object]:
    """One user; returns what went wrong, and how much was done."""
    faulthandler.enable()
    from medssl.core.project.project import Project
    from napari.utils.notifications import notification_manager

    problems: list[str] = []
    notification_manager.notification_ready.connect(
        lambda note: (
            problems.append("".join(traceback.format_exception(note.exception))[-1500:])
            if getattr(note, "exception", None) is not None
            else None
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        roots = make_projects(Path(folder))
        viewer, dock = open_window(1300, 950)
        user = RandomPainter(viewer, dock, roots, seed)
        dock.open(roots[0])
        wait_until(lambda: dock.workspace.scan_layer is not None, TIMEOUT_S, "the first scan")
        slowest = 0.0
        for number in range(actions):
            begin = time.perf_counter()
            before = len(problems)
            try:
                name = user.act()
            except Exception:
                name = "raised"
                problems.append(traceback.format_exc()[-1500:])
            slowest = max(slowest, time.perf_counter() - begin)
            print(f"{number:4d} {name}", file=sys.stderr, flush=True)
            if len(problems) > before:
                print("     PROBLEM " + problems[-1], file=sys.stderr, flush=True)
        if dock.session.job.running:
            dock.jobs.stop()
        wait_until(lambda: not dock.session.job.running, TIMEOUT_S, "the end of the training")
        wait_until(lambda: not dock.scans.adder.busy, TIMEOUT_S, "the end of reading")
        user.remember()
        dock.workspace.leave()
        lost = 0
        for (root, scan), labels in user.painted.items():
            annotation = Project.open(root).annotation(scan)
            saved = annotation.labels if annotation is not None else np.zeros_like(labels)
            if not np.array_equal(saved, labels):
                lost += 1
                problems.append(
                    f"{root.name}/{scan}: {int((saved != labels).sum())} voxels differ on the disk"
                )
        viewer.close()
    return {"seed": seed, "actions": actions, "scans": len(user.painted), "lost": lost,
            "problems": problems, "slowest_s": round(slowest, 2)}  # fmt: skip


def main() -> None:
    """Run the seeds one after the other and print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--actions", type=int, default=200)
    parser.add_argument("--once", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once is not None:
        print(json.dumps(run_seed(options.once, options.actions)))
        return
    command = f"python benchmarks/soak_window.py --seeds {options.seeds} --actions {options.actions}"
    print(f"`{command}{f' --first {options.first}' if options.first else ''}`, {window_text()}\n", flush=True)
    rows = []
    for seed in range(options.first, options.first + options.seeds):
        command = [
            sys.executable,
            "-W",
            "ignore",
            __file__,
            "--once",
            str(seed),
            "--actions",
            str(options.actions),
        ]
        child = subprocess.run(command, capture_output=True, text=True)
        try:
            result = json.loads(child.stdout.splitlines()[-1])
        except (IndexError, ValueError):
            print(f"seed {seed}: ended with {child.returncode}\n{child.stderr[-12000:]}", flush=True)
            rows.append([f"{seed}", "ended by itself", "", "", "", "1"])
            continue
        problems, counts = result["problems"], [result[name] for name in ("actions", "scans", "lost")]
        rows.append([*map(str, (seed, *counts)), f"{result['slowest_s']:.1f}", str(len(problems))])
        print(f"seed {seed}: {len(problems)} problems", *problems, sep="\n", flush=True)
    heading = ["seed", "actions", "annotated scans", "with lost strokes", "slowest action, s", "problems"]
    print("\n" + markdown_table(heading, rows, text=()))
    raise SystemExit(1 if any(row[-1] != "0" for row in rows) else 0)


if __name__ == "__main__":
    main()
