"""A user of the window who paints, fills, trains and undoes at any time, see soak_window.py."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from qtpy.QtCore import Qt
from random_user import RandomUser

from napari_medssl.annotate.seeds import grow_from_seeds
from napari_medssl.error_handling import catch_errors

KEYS = (
    "K", "H", "W", "Q", "J", "U", "Right", "Left", "PageDown", "PageUp", "P", "E", "F3", "F5", "F9",
)  # fmt: skip


class RandomPainter(RandomUser):
    """Adds the actions that change annotations and runs."""

    weights: ClassVar[dict[str, float]] = {
        "do_paint": 4.0, "do_open_project": 2.0, "do_select_scan": 2.0, "do_jump": 3.0, "do_fill": 2.0,
        "do_use_open_layers": 1.5, "do_three_dimensions": 1.5, "do_plane": 1.5, "do_keys": 2.0,
        "do_add_scan": 0.5, "do_remove_scan": 0.5, "do_class": 0.3, "do_train": 0.7,
    }  # fmt: skip

    def do_keys(self) -> str:
        key = self.one_of(KEYS)
        self.user.key(getattr(Qt.Key, f"Key_{key}"))
        return key

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
        self.user.drag(layer, start, end)
        return f"{axis} {index}"

    def do_undo(self) -> None:
        layer = self.workspace.annotation_layer
        if layer is not None:
            (layer.undo if self.random.random() < 0.7 else layer.redo)()

    def do_fill(self) -> str:
        """One of the ways to paint less, or its refusal."""
        annotate = self.dock.annotate
        if self.workspace.annotation_layer is None:
            return ""
        fill = annotate.fill
        ways = {
            "interpolate": annotate.interpolate,
            "remove": annotate.remove_interpolation,
            "seeds": lambda: grow_from_seeds(self.workspace, annotate.edits),
            "limit": lambda: fill.range_brush.set_on(not fill.range_brush.on),
            "empty": lambda: fill.empty_slices.complete(*fill.empty_slices.proposed()),
            "points": self._points,
        }
        way = self.one_of(ways)
        catch_errors(self.session, ways[way])
        return way

    def _points(self) -> None:
        """Points that are drawn in a layer of napari's become paint."""
        fill = self.dock.annotate.fill
        layer = self.workspace.annotation_layer
        if layer is None:
            return
        places = np.array(layer.data.shape) * self.random.uniform(0.2, 0.8, (3, 3))
        points = self.viewer.add_points(places * layer.scale, units=layer.units)
        fill.drawn_layers.take(points, fill.label())
        self.viewer.layers.remove(points)

    def do_class(self) -> None:
        if self.session.project is not None and len(self.session.project.classes) < 6:
            self.dock.annotate.add_class()

    def do_step(self) -> str:
        number = int(self.random.integers(1, 7))
        self.user.open_step(number)
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
            self.user.click_voxel(layer, voxel)

    def do_landmark(self) -> None:
        box = self.dock.features.landmarks
        if box.set_button.isEnabled() and self.session.idle:
            box.set_here()

    def do_train(self) -> str:
        """Start a training, or stop the one that runs."""
        if self.session.job.running:
            if self.random.random() < 0.5:
                self.dock.jobs.stop()
                return "stop"
            return "running"
        step = self.one_of([self.dock.pretrain, self.dock.finetune])
        step.minutes.setValue(0.3)
        (step.start_anew if step is self.dock.pretrain else step.fine_tune)()
        return f"start {step.kind}"
