"""Random actions of a user in a real napari window: python benchmarks/soak_window.py --seeds 10

Each seed runs in a new process (without a display: xvfb-run -a -s "-screen 0 1400x1000x24"). The user
switches projects, scans, layers, dimensions and tools, paints, undoes, places landmarks and trains.
The window must not crash, no exception may be raised, and at the end the annotations on the disk must be what
was on the screen. Exit code 1 if a seed failed.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPES_XYZ = ((48, 40, 24), (40, 56, 30), (64, 48, 16))
PATIENCE_S = 120


def make_scan(path: Path, shape_xyz: tuple[int, ...], seed: int) -> Path:
    """A bright ball in noise, NIfTI."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*map(np.arange, shape_xyz), indexing="ij"), -1)
    inside = np.linalg.norm(grid - np.array(shape_xyz) / 2, axis=-1) < min(shape_xyz) / 3
    image = (inside * 300 + random.normal(0, 40, shape_xyz)).astype(np.float32)
    nib.save(nib.Nifti1Image(image, np.diag([1.5, 1.5, 3.0, 1.0])), path)
    return path


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


class RandomUser:
    """Draws actions; each is a method whose name begins with `do_`."""

    def __init__(self, viewer, dock, roots: list[Path], seed: int) -> None:
        from user_simulation import UserSimulation

        self.viewer, self.dock, self.roots = viewer, dock, roots
        self.session, self.workspace = dock.session, dock.workspace
        self.hand = UserSimulation(viewer, dock)
        self.random = np.random.default_rng(seed)
        self.folder = roots[0].parent
        self.painted: dict[tuple[Path, str], np.ndarray] = {}
        """{(project, scan): labels that were on the screen last}."""
        self.errors: list[str] = []
        self.count = 0

    def act(self) -> str:
        """Do something at random; returns the name of the action."""
        names = sorted(name for name in dir(self) if name.startswith("do_"))
        weights = np.array([WEIGHTS.get(name, 1.0) for name in names])
        name = str(self.random.choice(names, p=weights / weights.sum()))
        detail = getattr(self, name)()
        self.settle()
        self.remember()
        return name.removeprefix("do_") + (f" {detail}" if detail else "")

    def settle(self) -> None:
        """Let the window draw."""
        from qtpy.QtTest import QTest

        QTest.qWait(int(self.random.choice([5, 30, 120])))

    def remember(self) -> None:
        """Keep the labels on the screen."""
        project, scan, labels = self.session.project, self.session.scan, self.session.annotation.labels
        if project is not None and scan is not None and labels is not None:
            self.painted[(project.root, scan)] = labels.copy()

    def one_of(self, items):
        items = list(items)
        return items[int(self.random.integers(len(items)))] if items else None

    # --- projects and scans --------------------------------------------------------------------------

    def do_open_project(self) -> str:
        root = self.one_of(self.roots)
        if not self.session.job.running:
            self.dock.open(root)
        return root.name

    def do_select_scan(self) -> str:
        project = self.session.project
        scan = self.one_of(project.scans) if project else None
        if scan:
            self.workspace.scan_loader.open(scan)
        return str(scan)

    def do_step_scan(self) -> None:
        self.dock.scans.table.step(int(self.random.choice([-1, 1])))

    def do_add_scan(self) -> None:
        self.count += 1
        shape = SHAPES_XYZ[self.count % 3]
        path = make_scan(self.folder / f"added-{os.getpid()}-{self.count}.nii.gz", shape, 100 + self.count)
        self.dock.scans.add([path])

    def do_open_layer(self) -> str:
        """A layer that is not ours: an array, a file of its own, colours, a time series."""
        from napari_medssl.io.reader import read

        self.count += 1
        kind = self.one_of(["array", "file", "plane", "colours", "series", "labels"])
        random = np.random.default_rng(self.count)
        if kind == "file":
            path = make_scan(
                self.folder / f"layer-{os.getpid()}-{self.count}.nii.gz", SHAPES_XYZ[0], self.count
            )
            for data, attributes, layer_type in read(str(path)):
                self.viewer._add_layer_from_data(data, attributes, layer_type)
            return kind
        shape = {"plane": (40, 50), "colours": (12, 40, 50, 3), "series": (3, 12, 40, 50)}.get(
            kind, (70, 40, 50)
        )
        data = random.normal(0, 100, shape).astype(np.float32)
        if kind == "labels":
            self.viewer.add_labels((data > 150).astype(np.uint8))
        else:
            self.viewer.add_image(np.abs(data) / 500 if kind == "colours" else data, rgb=kind == "colours")
        return kind

    def do_use_open_layers(self) -> None:
        if self.dock.scans.use_open_layers.isEnabled():
            self.dock.scans.use_open_layers.click()

    # --- layers and dimensions -----------------------------------------------------------------------

    def do_remove_layer(self) -> str:
        layer = self.one_of(self.viewer.layers)
        if layer is None or layer.locked:
            return ""
        self.viewer.layers.remove(layer)
        return layer.name

    def do_toggle_layer(self) -> None:
        layer = self.one_of(self.viewer.layers)
        if layer is not None:
            layer.visible = not layer.visible

    def do_move_layer(self) -> None:
        count = len(self.viewer.layers)
        if count > 1:
            self.viewer.layers.move(int(self.random.integers(count)), int(self.random.integers(count)))

    def do_jump(self) -> str:
        """Go to a slice, perhaps past the last one."""
        axis = int(self.random.integers(self.viewer.dims.ndim))
        low, high, _ = self.viewer.dims.range[axis]
        place = float(self.random.uniform(low - 0.2 * (high - low), high + 0.5 * (high - low)))
        self.viewer.dims.set_point(axis, place)
        return f"{axis} {place:.0f}"

    def do_keys(self) -> str:
        from qtpy.QtCore import Qt

        key = self.one_of(["K", "H", "W", "Q", "J", "U", "Right", "Left", "PageDown", "PageUp", "P", "E"])
        self.hand.key(getattr(Qt.Key, f"Key_{key}"))
        return key

    def do_roll(self) -> None:
        self.viewer.dims.roll()

    def do_three_dimensions(self) -> None:
        self.viewer.dims.ndisplay = int(self.random.choice([2, 2, 3]))

    # --- tools ---------------------------------------------------------------------------------------

    def do_new_annotation(self) -> None:
        if self.session.scan is not None and self.dock.steps[1].body.isEnabled():
            self.dock.annotate.new_annotation()

    def do_paint(self) -> str:
        """A stroke by the mouse."""
        layer = self.workspace.annotation_layer
        position = self.workspace.slice_on_screen()
        if layer is None or position is None or self.viewer.dims.ndisplay != 2:
            return "nothing"
        self.workspace.paint(int(self.random.choice([1, 1, 2, 255, 0])))
        shape = np.array(layer.data.shape)
        start = (shape * self.random.uniform(0.2, 0.8, 3)).astype(int)
        end = np.clip(start + self.random.integers(-8, 9, 3), 0, shape - 1)
        axis, index = position
        start[axis] = end[axis] = index
        self.hand.drag(layer, start, end)
        return f"{axis} {index}"

    def do_undo(self) -> None:
        layer = self.workspace.annotation_layer
        if layer is not None:
            (layer.undo if self.random.random() < 0.7 else layer.redo)()

    def do_step(self) -> str:
        number = int(self.random.integers(1, 7))
        self.hand.open_step(number)
        return str(number)

    def do_features(self) -> None:
        features = self.dock.features
        button = self.one_of([features.follow, features.show_colors])
        if button.isEnabled():
            button.click()

    def do_click_voxel(self) -> None:
        layer = self.workspace.scan_layer
        if layer is not None and self.workspace.slice_on_screen() is not None:
            voxel = (np.array(layer.data.shape) * self.random.uniform(0.2, 0.8, 3)).astype(int)
            axis, index = self.workspace.slice_on_screen()
            voxel[axis] = index
            self.hand.click_voxel(layer, voxel)

    def do_landmark(self) -> None:
        box = self.dock.features.landmarks
        if box.set_button.isEnabled() and self.session.idle:
            box.set_here()

    def do_train(self) -> str:
        """Start a pre-training, or stop the one that runs."""
        if self.session.job.running:
            if self.random.random() < 0.5:
                self.dock.jobs.stop()
                return "stop"
            return "running"
        self.dock.pretrain.minutes.setValue(0.3)
        self.dock.pretrain.start_anew()
        return "start"


WEIGHTS = {
    "do_paint": 4.0, "do_open_project": 2.0, "do_select_scan": 2.0, "do_jump": 3.0, "do_use_open_layers": 1.5,
    "do_add_scan": 0.5, "do_three_dimensions": 1.5, "do_train": 0.5,
}  # fmt: skip
"""Relative frequencies of actions; 1 for others."""


def run_seed(seed: int, actions: int) -> dict[str, object]:
    """One user; returns what went wrong, and how many actions of each kind there were."""
    faulthandler.enable()
    import napari
    from napari.utils.notifications import notification_manager
    from qtpy.QtTest import QTest

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "plugin"))
    from medssl.core.project.project import Project
    from user_simulation import wait_until

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
        viewer = napari.Viewer(show=True)
        viewer.window.resize(1300, 950)
        _, dock = viewer.window.add_plugin_dock_widget("napari-medssl")
        QTest.qWait(1500)
        user, done = RandomUser(viewer, dock, roots, seed), Counter()
        dock.open(roots[0])
        wait_until(lambda: dock.workspace.scan_layer is not None, PATIENCE_S, "the first scan")
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
            done[name.split()[0]] += 1
            print(f"{number:4d} {name}", file=sys.stderr, flush=True)
            if len(problems) > before:
                print("     PROBLEM " + problems[-1], file=sys.stderr, flush=True)
        dock.jobs.stop() if dock.session.job.running else None
        wait_until(lambda: not dock.session.job.running, PATIENCE_S, "the end of the training")
        wait_until(lambda: not dock.scans.adder.busy, PATIENCE_S, "the end of reading")
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
    return {"seed": seed, "actions": sum(done.values()), "scans": len(user.painted), "lost": lost,
            "problems": problems, "slowest_s": round(slowest, 2), "kinds": dict(done)}  # fmt: skip


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
    failed = 0
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
            print(f"seed {seed}: ended with {child.returncode}\n{child.stderr[-4000:]}", flush=True)
            failed += 1
            continue
        failed += bool(result["problems"])
        print(
            f"seed {seed}: {result['actions']} actions, {result['scans']} scans painted, "
            f"{result['lost']} with lost strokes, slowest action {result['slowest_s']} s, "
            f"{len(result['problems'])} problems",
            flush=True,
        )
        for text in result["problems"]:
            print("  " + text.strip().replace("\n", "\n  "), flush=True)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
