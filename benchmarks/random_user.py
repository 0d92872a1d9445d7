"""A user of the window who does anything at any time, see soak_window.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

import nibabel as nib
import numpy as np
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "plugin"))
from user_simulation import LEFT, wait_until
from user_window import WindowUser

from napari_medssl.error_handling import catch_errors
from napari_medssl.io.reader import read

TIMEOUT_S = 120
SHAPES_XYZ = ((48, 40, 24), (40, 56, 30), (64, 48, 16))


def make_scan(path: Path, shape_xyz: tuple[int, ...], seed: int) -> Path:
    """A bright ball in noise, NIfTI."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*map(np.arange, shape_xyz), indexing="ij"), -1)
    inside = np.linalg.norm(grid - np.array(shape_xyz) / 2, axis=-1) < min(shape_xyz) / 3
    image = (inside * 300 + random.normal(0, 40, shape_xyz)).astype(np.float32)
    nib.save(nib.Nifti1Image(image, np.diag([1.5, 1.5, 3.0, 1.0])), path)
    return path


class RandomUser:
    """Draws actions; each is a method whose name begins with `do_`. Here those that change what is shown."""

    weights: ClassVar[dict[str, float]] = {}
    """Relative frequencies of actions; 1 for others."""

    def __init__(self, viewer, dock, roots: list[Path], seed: int) -> None:
        self.viewer, self.dock, self.roots = viewer, dock, roots
        self.session, self.workspace = dock.session, dock.workspace
        self.user = WindowUser(viewer, dock)
        self.random = np.random.default_rng(seed)
        self.folder = roots[0].parent
        self.painted: dict[tuple[Path, str], np.ndarray] = {}
        """{(project, scan): labels that were on the screen last}."""
        self.count = 0

    def act(self) -> str:
        """Do something at random; returns the name of the action."""
        names = sorted(name for name in dir(self) if name.startswith("do_"))
        weights = np.array([self.weights.get(name, 1.0) for name in names])
        name = str(self.random.choice(names, p=weights / weights.sum()))
        detail = getattr(self, name)()
        self.settle()
        self.remember()
        return name.removeprefix("do_") + (f" {detail}" if detail else "")

    def settle(self) -> None:
        """Let the window draw."""
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
        path = make_scan(self.folder / f"added-{self.count}.nii.gz", shape, 100 + self.count)
        self.dock.scans.add([path])

    def do_open_layer(self) -> str:
        """A layer that is not ours: an array, a file of its own, colours, a time series."""
        self.count += 1
        kind = self.one_of(["array", "file", "plane", "colours", "series", "labels"])
        random = np.random.default_rng(self.count)
        if kind == "file":
            path = make_scan(self.folder / f"layer-{self.count}.nii.gz", SHAPES_XYZ[0], self.count)
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

    def do_rename_scan(self) -> None:
        project = self.session.project
        scan = self.one_of(project.scans.values()) if project else None
        if scan is not None:
            self.count += 1
            self.dock.scans.table.removal.rename(scan, f"Patient {self.count}")

    def do_remove_scan(self) -> str:
        """Remove a scan and add it again: its annotation comes back."""
        project, table = self.session.project, self.dock.scans.table
        scan = self.one_of(project.scans.values()) if project and len(project.scans) > 2 else None
        if scan is None or not self.session.idle or self.dock.scans.adder.busy:
            return ""
        table.removal.remove(scan.id)
        wait_until(lambda: scan.id not in project.scans, TIMEOUT_S, "removing a scan")
        self.dock.scans.add([Path(scan.source)])
        wait_until(lambda: not self.dock.scans.adder.busy, TIMEOUT_S, "adding it again")
        again = next(each.id for each in project.scans.values() if each.sha256 == scan.sha256)
        if (project.root, scan.id) in self.painted:  # a scan from a layer may get another id
            self.painted[(project.root, again)] = self.painted.pop((project.root, scan.id))
        return scan.id

    def do_add_channel(self) -> str:
        """Another sequence of a scan; or one is removed."""
        project = self.session.project
        scan = self.one_of(project.scans.values()) if project else None
        if scan is None or not self.session.idle:
            return ""
        channels = self.dock.scans.table.channels
        if scan.channels:
            channels.remove(scan, scan.channels[0].channel)
            return f"{scan.id} removed"
        self.count += 1
        shape = tuple(reversed(scan.geometry.shape_zyx))
        path = make_scan(self.folder / f"channel-{self.count}.nii.gz", shape, self.count)
        channels.add(scan, path, "t2")
        return scan.id

    def do_review(self) -> None:
        self.user.key(Qt.Key.Key_N)

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

    def do_roll(self) -> None:
        self.viewer.dims.roll()

    def do_three_dimensions(self) -> None:
        self.viewer.dims.ndisplay = int(self.random.choice([2, 2, 3]))

    def do_three_planes(self) -> None:
        self.dock.view_bar.switch_planes()

    def do_plane(self) -> str:
        """A drag in one of the planes beside the canvas: a stroke if a brush is selected."""
        plane = self.one_of(self.dock.reading.three_planes.planes)
        if plane is None or not plane.isVisible():
            return ""
        size = np.array([plane.width(), plane.height()])
        first, last = (QPoint(*(size * self.random.uniform(0.2, 0.8, 2)).astype(int)) for _ in range(2))
        self.user.drag_with(plane, LEFT, first, last)
        return str(plane.axis)

    def do_surfaces(self) -> None:
        if self.session.scan is not None and self.workspace.annotation_layer is not None:
            catch_errors(self.session, self.dock.reading.surfaces.show)
