"""Brings strokes to the disk: each at once into a journal, all of them soon after into the annotation.

Writing a large annotation takes longer than a stroke may, so it is done in a thread; strokes that come in
meanwhile are in the journal. What a killed viewer leaves there the next one brings back (crash_recovery.py).
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
from medssl.core.errors import UserError
from medssl.core.project import stroke_log
from medssl.core.project.annotation import Annotation, read_interpolated
from medssl.core.project.project import Project
from napari.components import ViewerModel
from napari.layers import Labels
from psygnal import Signal
from qtpy import QtCore
from superqt.utils import qdebounced

from napari_medssl import layers
from napari_medssl.error_handling import guarded, tell
from napari_medssl.model.session import Session

PAUSE_MS = 800
"""How long after the last stroke the annotation is written."""


class Bell(QtCore.QObject):
    """Rings in the viewer's thread when another thread is done."""

    rang = QtCore.Signal()


class Autosave:
    """Watches the annotation layer of the scan on the screen."""

    stroke = Signal(object, object, object)
    """(voxels, before, after): flat indices that changed, and their labels."""
    redrawn = Signal()
    """Something changed elsewhere, by undo or from outside; nobody says where."""

    def __init__(self, viewer: ViewerModel, session: Session) -> None:
        self.viewer, self.session = viewer, session
        self.interpolated: np.ndarray | None = None
        """What is guessed between complete slices (interpolation.py); saved with the strokes."""
        self._layer: Labels | None = None
        self._known = np.empty(0, np.uint8)
        self._known_complete: tuple[tuple[int, int], ...] = ()
        self._stale = self._awaited = False
        self._version = self._saved_version = 0
        self._seen: Any = None
        self._soon = qdebounced(self._save, timeout=PAUSE_MS)
        self._thread = ThreadPoolExecutor(1, "autosave")
        self._writing: tuple[Future[bool], int, int] | None = None
        self._bell = Bell()
        self._bell.rang.connect(self._on_written, QtCore.Qt.ConnectionType.QueuedConnection)
        viewer.layers.events.removing.connect(self._on_removing)
        session.annotation_changed.connect(self._on_marked)
        session.scan_changed.connect(self._read_interpolated)

    def watch(self, layer: Labels) -> None:
        """Save this layer's strokes from now on."""
        self._layer, self._seen = layer, self._view_of(layer)
        self._version = self._saved_version = 0
        self._known, self._known_complete, self._stale = np.array(layer.data), self.session.complete, False
        layer.events.paint.connect(self._on_paint)
        layer.events.labels_update.connect(self._on_updated)
        layer.events.data.connect(self.touch)
        layer.events.set_data.connect(self._on_redrawn)

    @property
    def unsaved(self) -> Labels | None:
        """The layer whose strokes the disk has refused so far; it may have been deleted meanwhile."""
        return self._layer if self._dirty else None

    @property
    def _dirty(self) -> bool:
        return self._version != self._saved_version

    def touch(self, event: Any = None) -> None:
        """Something changed that has to be saved."""
        if self._layer is not None:
            self._version += 1
            self.session.touch()
            self._soon()

    def expect(self, voxels: np.ndarray, labels: np.ndarray) -> None:
        """Flat indices of the layer are about to get these labels, on whatever slices.

        Raises UserError ("disk-full", "not-writable").
        """
        known = self._known.reshape(-1)
        before = known[voxels]
        known[voxels] = labels
        self._journal(voxels, before, labels)

    def doubt(self) -> None:
        """What is known of the layer no longer holds: the next stroke looks at all of it."""
        self._stale = True
        self.touch()
        self.redrawn.emit()

    def flush(self) -> None:
        """Write the annotation now if it changed.

        Raises UserError (the disk's reasons); it is then still to be saved.
        """
        self._soon.cancel()
        if self._writing is not None:
            self._finish(*self._writing)
        if self._dirty and self._layer is not None and self.session.scan is not None:
            self._begin()
            assert self._writing is not None
            error = self._finish(*self._writing)
            if error is not None:
                raise error

    def close(self) -> None:
        """Let the viewer go."""
        self._soon.cancel()
        with suppress(RuntimeError):  # at the end of the program Qt may have taken it down already
            self._bell.rang.disconnect(self._on_written)
        self._thread.shutdown(wait=False)
        self.viewer.layers.events.removing.disconnect(self._on_removing)
        self.session.annotation_changed.disconnect(self._on_marked, missing_ok=True)
        self.session.scan_changed.disconnect(self._read_interpolated, missing_ok=True)

    # --- writing -------------------------------------------------------------------------------------

    def _save(self) -> None:
        """Write in the thread, unless it is writing: then again when it is done."""
        if self._writing is None and self._dirty and self._layer is not None:
            guarded(self.session, self._begin)

    def _read_interpolated(self) -> None:
        project, scan = self.session.need_project(), self.session.need_scan()
        path = project.root / "annotations" / f"{scan.id}.npz"
        self.interpolated = read_interpolated(path, scan.geometry.shape_zyx)

    def _begin(self) -> None:
        # The thread reads what the hand may paint on meanwhile: all strokes from here on are in the journal.
        project, scan = self.session.need_project(), self.session.need_scan()
        annotation = Annotation(np.asarray(self._layer.data), self.session.complete, self.interpolated)
        size = stroke_log.length(stroke_log.journal_file(project.root, scan.id))
        future = self._in_thread(project, scan.id, annotation)
        self._writing = (future, self._version, size)
        future.add_done_callback(lambda done: self._bell.rang.emit())

    def _in_thread(self, *what: Any) -> Future[bool]:
        """Write in the thread; here and now where the program is ending and threads take no more work."""
        try:
            return self._thread.submit(_write, *what)
        except RuntimeError:
            done: Future[bool] = Future()
            try:
                done.set_result(_write(*what))
            except Exception as error:
                done.set_exception(error)
            return done

    def _on_written(self) -> None:
        if self._writing is None or not self._writing[0].done() or self.session.closed:
            return
        error = self._finish(*self._writing)
        if error is not None:
            tell(self.session, error)
        elif self._dirty:
            self._soon()

    def _finish(self, future: Future[bool], version: int, size: int) -> BaseException | None:
        """Take in how the writing went, waiting for it; returns what went wrong."""
        error, self._writing = future.exception(), None
        session = self.session
        if error is not None:
            session.saved = "NOT SAVED"
        else:
            project, scan = session.need_project(), session.need_scan()
            stroke_log.drop(stroke_log.journal_file(project.root, scan.id), size)
            self._saved_version = version
            session.saved = "saving" if self._dirty else "saved"
            some = {scan.id} if future.result() else set()
            session.annotated = (session.annotated - {scan.id}) | some
        session.annotation_changed.emit()
        return error

    # --- what changed --------------------------------------------------------------------------------

    def _on_paint(self, event: Any = None) -> None:
        """A stroke has ended; one that the hand did not make says so before the voxels change."""
        self.touch()
        voxels, before, after = self._changed()
        self._awaited = len(voxels) == 0
        guarded(self.session, lambda: self._journal(voxels, before, after))

    def _on_updated(self, event: Any = None) -> None:
        self.touch()
        if self._awaited:
            self._awaited = False
            guarded(self.session, lambda: self._journal(*self._changed()))

    def _on_marked(self) -> None:
        if self._layer is not None and self.session.complete != self._known_complete:
            guarded(self.session, lambda: self._journal(*self._changed()))

    def _journal(self, voxels: np.ndarray, before: np.ndarray, after: np.ndarray) -> None:
        complete, project, scan = self.session.complete, self.session.need_project(), self.session.need_scan()
        if len(voxels):
            self.stroke.emit(voxels, before, after)
        if project.read_only or (len(voxels) == 0 and complete == self._known_complete):
            return
        self._known_complete = complete
        stroke_log.append(
            stroke_log.journal_file(project.root, scan.id), stroke_log.Stroke(voxels, after, complete)
        )

    def _changed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Flat indices that differ from what was known where a stroke can reach; labels before, after."""
        layer = self._layer
        assert layer is not None
        data = np.asarray(layer.data)
        box = self._reach(layer)
        at = np.nonzero(data[box] != self._known[box])
        corner = [span.start or 0 for span in box]
        at = tuple(along + start for along, start in zip(at, corner, strict=True))
        before, after = self._known[at], data[at]
        self._known[at] = after
        return np.ravel_multi_index(at, data.shape), before, after

    def _reach(self, layer: Labels) -> tuple[slice, ...]:
        """The slice on the screen; all of the scan for a brush that goes through slices."""
        everything = (slice(None),) * 3
        stale, self._stale = self._stale, False
        if stale or layer.n_edit_dimensions > 2:
            return everything
        try:
            axis, index = layers.current_slice(self.viewer.dims, layer)
        except UserError:  # in 3D
            return everything
        return (*everything[:axis], slice(index, index + 1), *everything[axis + 1 :])

    def _on_redrawn(self, event: Any = None) -> None:
        """Undo and redo tell nobody; they redraw the layer without moving the view."""
        view = self._view_of(self._layer)
        if view == self._seen:
            voxels, before, after = self._changed()
            if len(voxels):
                self.touch()
                guarded(self.session, lambda: self._journal(voxels, before, after))
            else:
                self.doubt()
        self._seen = view

    def _view_of(self, layer: Labels | None) -> Any:
        dims = self.viewer.dims
        return (dims.point, dims.order, dims.ndisplay, layer is None or layer.visible)

    def _on_removing(self, event: Any) -> None:
        """A layer is about to go, by whomever: its strokes are saved first."""
        if self.viewer.layers[event.index] is self._layer:
            guarded(self.session, self.flush)
            self._layer = self._layer if self._dirty else None


def _write(project: Project, scan: str, annotation: Annotation) -> bool:
    """Write an annotation; whether it says anything. A function, for it runs in a thread."""
    project.save_annotation(scan, annotation)
    return bool(annotation.complete) or bool(annotation.labels.any())
