"""What is guessed between complete slices: a layer of its own, outlines only, gone where somebody paints."""

from __future__ import annotations

import numpy as np
from medssl.core.errors import UserError
from medssl.core.io.geometry import AXIS_NAMES
from medssl.core.labels.shape_interpolation import fill, gaps
from medssl.core.project.annotation import SURE_BACKGROUND, Annotation
from napari.layers import Labels
from napari.utils import DirectLabelColormap
from psygnal import Signal

from napari_medssl import layers
from napari_medssl.annotate.edits import Edits
from napari_medssl.latest_only_worker import Background
from napari_medssl.workspace import Workspace

FILL = "fill"


class Fills:
    """The guesses of the scan on the screen: `autosave.interpolated`, saved with the strokes."""

    changed = Signal()

    def __init__(self, workspace: Workspace, edits: Edits) -> None:
        self.workspace, self.session, self.edits = workspace, workspace.session, edits
        self._thread = Background(self.session)
        self._painted: list[np.ndarray] = []
        self._complete: tuple[tuple[int, int], ...] = ()
        self.session.project_changed.connect(self._clear)
        self.session.scan_changed.connect(self._on_scan)
        self.session.classes_changed.connect(self._recolor)
        self.session.annotation_changed.connect(self._on_marked)
        workspace.autosave.stroke.connect(self._on_stroke)

    @property
    def layer(self) -> Labels | None:
        """The outlines, where there are any."""
        return layers.find(self.workspace.viewer.layers, FILL)

    @property
    def some(self) -> bool:
        """Whether anything is filled in on the scan on the screen."""
        return self.workspace.autosave.interpolated is not None

    def possible(self, place: tuple[int, int] | None) -> bool:
        """Whether a slice lies between two complete ones."""
        complete = self.session.complete
        return place is not None and bool(gaps(Annotation(np.empty(0), complete), *place))

    def here(self, place: tuple[int, int] | None) -> bool:
        """Whether any structure is guessed on a slice."""
        return place is not None and len(self._guessed(*place)[0]) > 0

    def fill(self) -> None:
        """Guess what lies between the complete slices around the one on the screen; in a thread.

        Raises UserError ("no-gap", "no-annotation", "not-2d", "read-only").
        """
        self.session.need_project().need_writable()
        layer, scan = self.workspace.need_annotation(), self.session.need_scan()
        axis, index = layers.current_slice(self.workspace.viewer.dims, layer)
        if not self.possible((axis, index)):
            raise UserError(
                f"{AXIS_NAMES[axis].capitalize()} slice {index} does not lie between two complete ones; "
                "complete one on either side of it.",
                code="no-gap",
            )
        annotation = Annotation(
            np.array(layer.data), self.session.complete, self.workspace.autosave.interpolated
        )
        self._painted = []
        spacing = scan.geometry.spacing_mm
        self._thread.ask(
            lambda: iter([fill(annotation, axis, index, spacing)]), lambda found: self._take(scan.id, found)
        )

    def remove(self) -> None:
        """Take all guesses of the scan away."""
        self.session.need_project().need_writable()
        self._set(None)

    def accept(self, axis: int, index: int) -> bool:
        """Turn a slice's guess into strokes and mark it complete, as one step; False where there is none."""
        voxels, labels = self._guessed(axis, index)
        if len(voxels) == 0:
            return False
        self.edits.apply(voxels, labels, {*self.session.complete, (axis, index)})
        return True

    # --- what comes in -------------------------------------------------------------------------------

    def _take(self, scan: str, interpolated: np.ndarray) -> None:
        if scan != self.session.scan:
            return
        for voxels in self._painted:  # since the thread began
            interpolated.reshape(-1)[voxels] = 0
        self._set(interpolated)

    def _set(self, interpolated: np.ndarray | None) -> None:
        self.workspace.autosave.interpolated = interpolated
        self.workspace.autosave.touch()
        self._show()

    def _on_stroke(self, voxels: np.ndarray, before: np.ndarray, after: np.ndarray) -> None:
        self._painted.append(voxels)
        interpolated = self.workspace.autosave.interpolated
        if interpolated is not None and interpolated.reshape(-1)[voxels].any():
            interpolated.reshape(-1)[voxels] = 0
            self._refresh()

    def _on_marked(self) -> None:
        """In a slice that is complete nothing is left to guess."""
        new = set(self.session.complete) - set(self._complete)
        self._complete = self.session.complete
        interpolated = self.workspace.autosave.interpolated
        if interpolated is not None:
            for axis, index in new:
                interpolated[(slice(None),) * axis + (index,)] = 0
            if new:
                self._refresh()

    def _on_scan(self) -> None:
        self._complete = self.session.complete
        self._show()

    # --- what is shown -------------------------------------------------------------------------------

    def _guessed(self, axis: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Flat indices of a slice's guessed structures that nobody painted on, and their labels."""
        interpolated, layer = self.workspace.autosave.interpolated, self.workspace.annotation_layer
        if interpolated is None or layer is None:
            return np.empty(0, np.int64), np.empty(0, np.uint8)
        plane = (slice(None),) * axis + (slice(index, index + 1),)
        guess = interpolated[plane]
        at = np.nonzero((guess != 0) & (guess != SURE_BACKGROUND) & (np.asarray(layer.data)[plane] == 0))
        labels = guess[at]
        whole = tuple(along + (index if number == axis else 0) for number, along in enumerate(at))
        return np.ravel_multi_index(whole, interpolated.shape), labels

    def _show(self) -> None:
        interpolated, layer, viewer = self.workspace.autosave.interpolated, self.layer, self.workspace.viewer
        if layer is not None and (interpolated is None or layer.data.shape != interpolated.shape):
            self._clear()
            layer = None
        if interpolated is not None:
            if layer is None:
                layers.add(viewer, self._new_layer(interpolated))
            else:
                layer.data = interpolated
        self.changed.emit()

    def _new_layer(self, interpolated: np.ndarray) -> Labels:
        scan = self.session.need_scan()
        layer = Labels(
            interpolated,
            name="fill (guess)",
            metadata=layers.metadata(FILL, scan.geometry, scan=scan.id),
            opacity=0.9,
            colormap=self._colors(),
            **layers.placement(scan.geometry),
        )
        layer.contour = 1
        layer.editable = False
        layer.locked = True
        return layer

    def _colors(self) -> DirectLabelColormap:
        """The classes' colours; guessed background is not shown."""
        colors = dict(layers.colormap(self.session.need_project().classes).color_dict)
        colors[SURE_BACKGROUND] = (0, 0, 0, 0)
        return DirectLabelColormap(color_dict=colors)

    def _recolor(self) -> None:
        if self.layer is not None and self.session.project is not None:
            self.layer.colormap = self._colors()

    def _refresh(self) -> None:
        if self.layer is not None:
            self.layer.refresh()
        self.changed.emit()

    def _clear(self) -> None:
        layer = self.layer
        if layer is not None:
            layer.locked = False
            self.workspace.viewer.layers.remove(layer)
