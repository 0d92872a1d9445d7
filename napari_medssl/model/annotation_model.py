"""The annotation of the scan on the screen: labels, complete slices, interpolated labels and stroke journal.

One class owns all four and keeps them consistent, in memory and on the disk; whoever shows or changes one of
them asks it. It knows neither Qt nor napari: `annotate/autosave.py` says when to record and when to write.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from medssl.core.errors import UserError
from medssl.core.project.annotation import Annotation
from medssl.core.project.project import Project, Scan
from medssl.core.project.stroke_log import StrokeLog, journal_file, journal_length
from medssl.core.project.stroke_records import Stroke
from psygnal import Signal

from napari_medssl.model.annotation_state import PendingWrite, Recovered, SaveState, SliceIndex

Region = tuple[slice, ...]
EVERYTHING: Region = (slice(None),) * 3


class AnnotationModel:
    """Load, edit, save and recover the annotation of one scan at a time.

    The annotation layer edits `labels` in place. What differs from the labels recorded last is a stroke; it
    is appended to the journal by `record`.
    """

    changed = Signal()
    """Complete slices or the save state have changed."""
    marking = Signal(object, object)
    """(added, removed): sets of slices that are about to become complete, or no longer complete."""
    edited = Signal()
    """There is something to save."""
    journaled = Signal()
    """A stroke is in the journal; `journal.sync` has it reach the disk."""
    stroke = Signal(object, object, object)
    """(voxels, before, after): flat indices that changed, and their labels (uint8)."""
    redrawn = Signal()
    """Labels have changed by undo or from outside, at unknown voxels."""
    interpolated_changed = Signal()
    written = Signal(str, bool)
    """(scan, whether anything is annotated): the file has been written."""

    labels: np.ndarray | None
    """uint8 (Z, Y, X): 0 not annotated, 1..254 class ids, 255 sure background; None before there are any."""
    complete: tuple[SliceIndex, ...]
    """Slices in which everything unpainted is background, sorted."""
    interpolated: np.ndarray | None
    """Interpolated between complete slices, in the same numbers; 0 wherever somebody has painted."""
    save_state: SaveState
    journal: StrokeLog | None
    """The journal of the scan; None while no scan is open."""

    def __init__(self) -> None:
        self._project: Project | None = None
        self._scan: Scan | None = None
        self.close()

    @property
    def unsaved(self) -> bool:
        """Whether there are edits that the annotation file does not contain."""
        return self.labels is not None and self._version != self._saved_version

    # --- load ----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Forget the annotation; no scan is open."""
        self._project = self._scan = self.journal = None
        self._reset(None, SaveState.EMPTY)

    def open(self, project: Project, scan_id: str) -> None:
        """Read the annotation of a scan.

        Raises:
            UserError: The file cannot be read or belongs to another scan; the model is unchanged then.
        """
        annotation, scan = project.annotation(scan_id), project.scans[scan_id]
        path = journal_file(project.root, scan_id)
        nothing_to_recover = journal_length(path) == 0
        self._project, self._scan = project, scan
        self._reset(annotation, SaveState.SAVED if annotation else SaveState.EMPTY)
        self.journal, self._recovered = StrokeLog(path, scan.geometry.shape_zyx), nothing_to_recover

    def create(self) -> np.ndarray:
        """The labels (Z, Y, X) to paint on, uint8; empty ones where nothing is annotated yet."""
        if self.labels is None:
            self.watch(np.zeros(self._need_scan().geometry.shape_zyx, np.uint8))
        assert self.labels is not None
        return self.labels

    def watch(self, labels: np.ndarray) -> None:
        """Set the labels that are edited, without recording a stroke.

        Args:
            labels: Labels, uint8 (Z, Y, X).
        """
        self.labels, self._recorded, self._stale = labels, np.array(labels), False
        self._recorded_complete = self.complete

    def _reset(self, annotation: Annotation | None, state: SaveState) -> None:
        self.labels = None
        self.complete = annotation.complete if annotation else ()
        self.interpolated = annotation.interpolated if annotation else None
        self.save_state = state
        self._version = self._saved_version = 0
        self._recorded = np.empty(0, np.uint8)
        self._recorded_complete = self.complete
        self._stale = False
        self._recovered = True
        """Whether the labels contain what a killed viewer left in the journal; if not, it is kept."""
        if annotation is not None:
            self.watch(annotation.labels)

    def current(self) -> Annotation:
        """The annotation as it is now; its arrays are those that are edited, not copies."""
        labels = self.labels
        if labels is None:
            labels = np.zeros(self._need_scan().geometry.shape_zyx, np.uint8)
        return Annotation(labels, self.complete, self.interpolated)

    # --- edit ----------------------------------------------------------------------------------------

    def touch(self) -> None:
        """Say that there is something to save."""
        if self.labels is None:
            return
        self._version += 1
        if self.save_state != SaveState.SAVING:
            self.save_state = SaveState.SAVING
            self.changed.emit()
        self.edited.emit()

    def record(self, region: Region = EVERYTHING) -> bool:
        """Append what has changed in a region of the labels to the journal.

        Args:
            region: A slice along each of (Z, Y, X). After `invalidate` all voxels are compared.

        Returns:
            Whether any voxel has changed.

        Raises:
            UserError: The disk refuses or the project is gone; the next call appends this stroke, too.
        """
        if self.labels is None:
            return False
        region, self._stale = EVERYTHING if self._stale else region, False
        corner = [span.start or 0 for span in region]
        local = np.nonzero(self.labels[region] != self._recorded[region])
        index = tuple(along + start for along, start in zip(local, corner, strict=True))
        before, after = self._recorded[index], self.labels[index]
        voxels = np.ravel_multi_index(index, self.labels.shape)
        try:
            self._append(voxels, after)
        except UserError:
            self._stale = True
            raise
        self._recorded[index] = after
        self._announce(voxels, before, after)
        return len(voxels) > 0

    def expect(self, voxels: np.ndarray, labels: np.ndarray) -> None:
        """Append an edit to the journal before the layer makes it, on whatever slices.

        Args:
            voxels: (N,) flat indices into (Z, Y, X).
            labels: (N,) uint8, what they become.

        Raises:
            UserError: The disk refuses or the project is gone; nothing has changed then.
        """
        self._append(voxels, labels)
        recorded = self._recorded.reshape(-1)
        before = recorded[voxels]
        recorded[voxels] = labels
        self._announce(voxels, before, labels)

    def invalidate(self) -> None:
        """Labels have changed at unknown voxels: the next `record` compares all of them."""
        self._stale = True
        self.touch()
        self.redrawn.emit()

    def mark(self, axis: int, index: int, complete: bool) -> None:
        """Mark a slice complete (its unpainted voxels are background), or take that back.

        Raises:
            UserError: As in `set_complete`.
        """
        self.set_complete({*self.complete} - {(axis, index)} | ({(axis, index)} if complete else set()))

    def set_complete(self, complete: Iterable[SliceIndex]) -> None:
        """Replace the complete slices; interpolated labels in newly complete ones are dropped.

        Raises:
            UserError: Another window has the project ("read-only"), it is gone, or the disk refuses.
        """
        now = tuple(sorted(set(complete)))
        if now == self.complete:
            return
        self._need_project().need_writable()
        added, removed = set(now) - set(self.complete), set(self.complete) - set(now)
        self.marking.emit(added, removed)
        self.complete = now
        if self.interpolated is not None and added:
            for axis, index in added:
                self.interpolated[(slice(None),) * axis + (index,)] = 0
            self.interpolated_changed.emit()
        self.touch()
        self.changed.emit()
        if self.labels is not None:
            self._append(np.empty(0, np.int64), np.empty(0, np.uint8))

    def set_interpolated(self, labels: np.ndarray | None) -> None:
        """Replace the interpolated labels.

        Args:
            labels: Interpolated labels, uint8 (Z, Y, X); None removes them.
        """
        self.interpolated = labels
        self.touch()
        self.interpolated_changed.emit()

    def _announce(self, voxels: np.ndarray, before: np.ndarray, after: np.ndarray) -> None:
        """Tell listeners of a stroke; it takes the place of what was interpolated there."""
        if len(voxels) == 0:
            return
        if self.interpolated is not None and self.interpolated.reshape(-1)[voxels].any():
            self.interpolated.reshape(-1)[voxels] = 0
            self.interpolated_changed.emit()
        self.stroke.emit(voxels, before, after)

    def _append(self, voxels: np.ndarray, labels: np.ndarray) -> None:
        nothing_new = len(voxels) == 0 and self.complete == self._recorded_complete
        if nothing_new or self._need_project().read_only:
            return
        self._need_project().make_folder("annotations")
        self._need_journal().append(Stroke(voxels, labels, self.complete))
        self._recorded_complete = self.complete
        self.journaled.emit()

    # --- save ----------------------------------------------------------------------------------------

    def begin_write(self) -> PendingWrite:
        """What has to be written now.

        The labels may be edited while it is written: the journal has all later strokes.
        """
        journal = self._need_journal()
        size = journal.size if self._recovered else 0
        scan = self._need_scan().id
        return PendingWrite(self._need_project(), scan, self.current(), self._version, journal, size)

    def end_write(self, pending: PendingWrite, annotated: bool) -> None:
        """The file has been written: the journal loses what the file contains."""
        pending.journal.drop(pending.journal_bytes)
        self._saved_version = pending.version
        self.save_state = SaveState.SAVING if self.unsaved else SaveState.SAVED
        self.written.emit(pending.scan, annotated)
        self.changed.emit()

    def fail_write(self) -> None:
        """The disk has refused the file."""
        self.save_state = SaveState.FAILED
        self.changed.emit()

    # --- recover -------------------------------------------------------------------------------------

    def recover(self) -> Recovered | None:
        """What the journal of a viewer that was killed adds to the file; None for nothing.

        A journal that adds nothing is deleted; any other is kept until `end_recovery`. A read-only project is
        left alone.

        Raises:
            UserError: The journal cannot be read, or the disk refuses.
        """
        if self._need_project().read_only:
            return None
        journal = self._need_journal()
        recovered = Recovered.from_journal(self.current(), *journal.mend())
        if not recovered.strokes:
            journal.drop(journal.size)
            self.end_recovery()
        return recovered if recovered.strokes or recovered.damaged else None

    def end_recovery(self) -> None:
        """The labels contain what was recovered: the journal may lose it once the file is written."""
        self._recovered = True

    def _need_journal(self) -> StrokeLog:
        assert self.journal is not None, "no scan is open"
        return self.journal

    def _need_project(self) -> Project:
        assert self._project is not None, "no scan is open"
        return self._project

    def _need_scan(self) -> Scan:
        assert self._scan is not None, "no scan is open"
        return self._scan
