"""When strokes reach the disk: each at once in the journal, all of them soon after in the annotation file.

Writing a large annotation takes longer than a stroke may, so it is done in a thread; strokes that come in
meanwhile are in the journal. What a killed viewer leaves there the next one brings back (crash_recovery.py).
A stroke that is appended to the journal survives a kill. To survive a power failure it has to reach the
drive, which takes milliseconds, or longer on a network: another thread waits for that.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

from medssl.core.errors import UserError
from napari.components import ViewerModel
from napari.layers import Labels
from qtpy import QtCore
from superqt.utils import qdebounced, qthrottled

from napari_medssl import navigation
from napari_medssl.error_handling import catch_errors, report_error
from napari_medssl.model.annotation_model import EVERYTHING, Region
from napari_medssl.model.annotation_state import PendingWrite
from napari_medssl.model.session import Session
from napari_medssl.qt import timer

PAUSE_MS = 800
"""How long after the last stroke the annotation is written."""
SYNC_MS = 400
"""Shortest time between two calls that have the journal reach the disk."""
RETRY_MS = 5_000
"""How long after a failure the annotation is written again."""
STROKE = "stroke"
"""Subject of what is said about a stroke that could not be recorded: it ends with the next one."""


class ThreadSignal(QtCore.QObject):
    """Emitted in one thread, received in the viewer's."""

    emitted = QtCore.Signal()


class Autosave:
    """Watches the annotation layer of the scan on the screen and has its model record and write."""

    def __init__(self, viewer: ViewerModel, session: Session) -> None:
        self.viewer, self.session, self.annotation = viewer, session, session.annotation
        self._layer: Labels | None = None
        self._awaiting_labels = self._is_journaled = False
        self._last_view: tuple[object, ...] = ()
        self._soon = qdebounced(self._save, timeout=PAUSE_MS)
        self._again = timer(RETRY_MS, self._save)
        self._sync_soon = qthrottled(self._sync, timeout=SYNC_MS)
        self._sync_thread = ThreadPoolExecutor(1, "journal")
        self._syncing: Future[None] | None = None
        self._sync_again = False
        self._told = dict[str, str]()
        """What was said last about a file that could not be written."""
        self._thread = ThreadPoolExecutor(1, "autosave")
        self._writing: tuple[Future[bool], PendingWrite] | None = None
        self._finished = ThreadSignal()
        self._finished.emitted.connect(self._on_finished, QtCore.Qt.ConnectionType.QueuedConnection)
        viewer.layers.events.removing.connect(self._on_removing)
        self.annotation.edited.connect(self._on_edited)
        self.annotation.journaled.connect(self._on_journaled)

    def watch(self, layer: Labels) -> None:
        """Save this layer's strokes from now on.

        Args:
            layer: The annotation layer, uint8 (Z, Y, X); its `data` is edited in place.
        """
        self._layer, self._last_view = layer, self._view(layer)
        if layer.data is not self.annotation.labels:
            self.annotation.watch(layer.data)
        layer.events.paint.connect(self._on_paint)
        layer.events.labels_update.connect(self._on_labels_update)
        layer.events.data.connect(self._on_data)
        layer.events.set_data.connect(self._on_set_data)

    @contextmanager
    def journaled(self) -> Iterator[None]:
        """Meanwhile the layer is edited as the journal says already (`AnnotationModel.expect`).

        To compare it once more would record the opposite: napari emits `paint` before the voxels change.
        """
        self._is_journaled = True
        try:
            yield
        finally:
            self._is_journaled = False

    def flush(self) -> None:
        """Write the annotation now if it has changed, and wait for it.

        Raises:
            UserError: The disk refuses ("disk-full", "not-writable"); it is then still to be saved.
        """
        self._soon.cancel()
        if self._writing is not None:
            self._finish(*self._writing)
        if self.annotation.unsaved:
            error = self._finish(*self._begin())
            if error is not None:
                self._told["annotation"] = str(error)
                raise error

    def close(self) -> None:
        """Disconnect from the viewer."""
        self._soon.cancel()
        with suppress(RuntimeError):  # at the end of the program Qt may have deleted it already
            self._finished.emitted.disconnect(self._on_finished)
            self._again.stop()
        self._sync_soon.cancel()
        for thread in (self._thread, self._sync_thread):
            thread.shutdown(wait=False)
        self.viewer.layers.events.removing.disconnect(self._on_removing)
        self.annotation.edited.disconnect(self._on_edited, missing_ok=True)
        self.annotation.journaled.disconnect(self._on_journaled, missing_ok=True)

    def _on_edited(self) -> None:
        self._soon()

    def _on_journaled(self) -> None:
        self._sync_soon()

    def _sync(self) -> None:
        """Have the journal reach the disk; on a slow one, once more after what is on its way."""
        journal = self.annotation.journal
        if journal is not None and self._syncing is None:
            self._syncing = self._sync_thread.submit(journal.sync)
            self._syncing.add_done_callback(lambda done: self._finished.emitted.emit())
        elif journal is not None:
            self._sync_again = True

    # --- writing -------------------------------------------------------------------------------------

    def _save(self) -> None:
        """Write in the thread, unless it is writing: then again when it has finished."""
        if self._writing is None and self.annotation.unsaved:
            catch_errors(self.session, self._begin)

    def _begin(self) -> tuple[Future[bool], PendingWrite]:
        pending = self.annotation.begin_write()
        future = self._in_thread(pending)
        self._writing = (future, pending)
        future.add_done_callback(lambda done: self._finished.emitted.emit())
        return self._writing

    def _in_thread(self, pending: PendingWrite) -> Future[bool]:
        """Write in the thread; here and now where the program is ending and threads take no more work."""
        try:
            return self._thread.submit(pending.write)
        except RuntimeError:
            done: Future[bool] = Future()
            try:
                done.set_result(pending.write())
            except Exception as error:
                done.set_exception(error)
            return done

    def _on_finished(self) -> None:
        if self.session.closed:
            return
        if self._syncing is not None and self._syncing.done():
            error, self._syncing = self._syncing.exception(), None
            self._tell("journal", error)
            if error is None:
                self._end("journal")
            if self._sync_again:
                self._sync_again = False
                self._sync_soon()
        if self._writing is not None and self._writing[0].done():
            error = self._finish(*self._writing)
            self._tell("annotation", error)
            if error is None and self.annotation.unsaved:
                self._soon()

    def _tell(self, file: str, error: BaseException | None) -> None:
        """Report a failure once, however often it is tried again."""
        if error is not None and str(error) != self._told.get(file):
            report_error(self.session, error)
            self._told[file] = str(error)

    def _end(self, file: str) -> None:
        """It is written: what was said about it, by whatever needed it, is no longer so."""
        self.session.messages.end(self._told.pop(file, ""))

    def _finish(self, future: Future[bool], pending: PendingWrite) -> BaseException | None:
        """Wait for the writing; returns what went wrong."""
        error, self._writing = future.exception(), None
        if error is None:
            try:
                self.annotation.end_write(pending, future.result())
            except UserError as refused:  # the journal still has what the file contains
                error = refused
        if error is not None:
            self.annotation.fail_write()
            self._again.start()
        else:
            self._end("annotation")
        return error

    # --- what changed --------------------------------------------------------------------------------

    def _on_paint(self, event: object = None) -> None:
        """A stroke has ended; napari emits this before the voxels change where no mouse has painted."""
        self.annotation.touch()
        if self._is_journaled:
            return
        self._awaiting_labels = not catch_errors(self.session, self._record, STROKE)

    def _on_labels_update(self, event: object = None) -> None:
        self.annotation.touch()
        if self._awaiting_labels:
            self._awaiting_labels = False
            catch_errors(self.session, self._record, STROKE)

    def _on_data(self, event: object = None) -> None:
        if self._layer is not None:
            self.annotation.labels = self._layer.data
        self.annotation.touch()

    def _on_set_data(self, event: object = None) -> None:
        """Undo and redo emit no event of their own; they redraw the layer without moving the view."""
        view = self._view(self._layer)
        if view == self._last_view and not self._is_journaled:
            catch_errors(self.session, self._record_undo, STROKE)
        self._last_view = view

    def _record_undo(self) -> None:
        if self._record():
            self.annotation.touch()
        else:
            self.annotation.invalidate()

    def _record(self) -> bool:
        return self.annotation.record(self.region()) if self._layer is not None else False

    def region(self) -> Region:
        """Where strokes change labels: on the slice on the screen, or anywhere by a brush through slices."""
        layer = self._layer
        position = navigation.slice_on_screen(self.viewer.dims, layer)
        if layer is None or layer.n_edit_dimensions > 2 or position is None:
            return EVERYTHING
        axis, index = position
        return (*EVERYTHING[:axis], slice(index, index + 1), *EVERYTHING[axis + 1 :])

    def _view(self, layer: Labels | None) -> tuple[object, ...]:
        dims = self.viewer.dims
        return (dims.point, dims.order, dims.ndisplay, layer is None or layer.visible)

    def _on_removing(self, event: Any) -> None:
        """A layer is about to be removed, by whomever: its strokes are saved first."""
        if self.viewer.layers[event.index] is self._layer:
            catch_errors(self.session, self.flush)
            self._layer = None
