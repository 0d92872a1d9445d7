"""Predictions of the scan on the screen: shown, compared, post-processed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from medssl.core.errors import UserError
from medssl.core.labels.postprocess import (
    Postprocessing,
    clean,
    postprocessing_of,
    read_cleaned,
    save_cleaned,
)
from medssl.core.project.project import Project, Scan
from napari.components import ViewerModel
from napari.layers import Labels
from psygnal import Signal

from napari_medssl import layers
from napari_medssl.error_handling import catch_errors
from napari_medssl.latest_only_worker import LatestOnlyWorker
from napari_medssl.model.messages import ON_SCREEN
from napari_medssl.model.session import Session

ONE_PREDICTION = "This scan has only one prediction."
VolumeChanges = dict[int, tuple[float, float]]
"""By class id: volumes added and removed, in ml."""


@dataclass(frozen=True)
class PredictionKey:
    """Names a prediction of a scan: that of a run, or its post-processed version."""

    run: str
    cleaned: bool = False


class Predictions:
    """Shows one prediction at a time in one locked layer.

    `other` is the prediction that `flip` shows; `changes` are the volumes in which the two differ.
    """

    changed = Signal()
    """Another prediction is shown, or its changes are known."""

    def __init__(self, viewer: ViewerModel, session: Session) -> None:
        self.viewer, self.session = viewer, session
        self.shown: PredictionKey | None = None
        self.other: PredictionKey | None = None
        self.postprocessing = Postprocessing()
        """Post-processing of the prediction on the screen."""
        self.previewed = Postprocessing()
        """Post-processing that is being previewed."""
        self.unfinished: set[tuple[int, int]] = set()
        """Slices (axis, index) of the layer that show a live preview (live_preview.py)."""
        self.changes: VolumeChanges = {}
        """Relative to the other prediction; during a preview, to the unprocessed one."""
        self._labels: dict[PredictionKey, np.ndarray] = {}
        self._compare, self._clean = LatestOnlyWorker(self.session), LatestOnlyWorker(self.session)
        self.session.scan_changed.connect(self._clear)
        self.session.project_changed.connect(self._clear)
        self.session.predicted.connect(self._on_predicted)
        self.session.run_deleted.connect(self._on_deleted)

    @property
    def layer(self) -> Labels | None:
        """The prediction layer; None before anything was shown."""
        return layers.find(self.viewer.layers, layers.PREDICTION)

    @property
    def shown_run(self) -> str:
        """Id of the run whose prediction is on the screen; empty for none."""
        return self.shown.run if self.shown else ""

    def entries(self) -> list[PredictionKey]:
        """All predictions of the scan on the screen, newest first."""
        result = []
        for run in self.session.predictions():
            cleaned = (run.folder / "predictions" / f"{self.session.scan}.cleaned.json").exists()
            result += [PredictionKey(run.id, True)] if cleaned else []
            result.append(PredictionKey(run.id))
        return result

    # --- showing -------------------------------------------------------------------------------------

    def show_newest(self) -> None:
        """Show the newest prediction of the scan on the screen, if there is one."""
        self._clear()
        newest = next(iter(self.entries()), None)
        if newest is None:
            self.hide()
        else:
            self.show(newest.run, newest.cleaned)

    def show(self, run: str, cleaned: bool = False) -> None:
        """Show the prediction of a run.

        Args:
            run: Id of the run.
            cleaned: Show the post-processed version.

        Raises:
            UserError: "no-prediction", "no-cleaned", "unreadable".
        """
        wanted, scan = PredictionKey(run, cleaned), self.session.need_scan()
        self._cancel()
        if wanted not in self._labels:
            self._labels[wanted] = _read(self.session.need_project(), scan.id, wanted)
        saved = postprocessing_of(self.session.need_project(), run, scan.id) if cleaned else None
        self.postprocessing = saved or Postprocessing()
        if self.shown not in (None, wanted):
            self.other = self.shown
        self.shown = wanted
        if self.other in (None, wanted):
            self.other = _previous(self.entries(), wanted)
        self._labels = {key: self._labels[key] for key in (wanted, self.other) if key in self._labels}
        self.show_labels(self._labels[wanted])
        self.session.messages.end("no-prediction", *([ONE_PREDICTION] if self.other else []))
        self._compare_with_other()
        self.changed.emit()

    def flip(self) -> None:
        """Show the other prediction; the next call goes back."""
        if self.other is None:
            self.session.notify("warning", ONE_PREDICTION, [ON_SCREEN])
        else:
            self.show(self.other.run, self.other.cleaned)

    def toggle(self) -> None:
        """Hide or show the prediction."""
        if self.layer is not None:
            self.layer.visible = not self.layer.visible

    def show_labels(self, labels: np.ndarray) -> None:
        """Show labels without saving them.

        Args:
            labels: Labels, uint8 (Z, Y, X).
        """
        self.unfinished.clear()
        scan, layer, project = self.session.need_scan(), self.layer, self.session.need_project()
        if layer is None:
            layer = layers.prediction_layer(labels, scan.geometry, scan.id, project.classes)
            below = layers.find(self.viewer.layers, layers.ANNOTATION)
            position = self.viewer.layers.index(below) if below is not None else len(self.viewer.layers)
            layers.add(self.viewer, layer, position)
        layer.data = labels
        layer.scale = scan.geometry.spacing_mm
        layer.metadata = layers.metadata(layers.PREDICTION, scan.geometry, scan=scan.id)
        layer.visible = True

    def hide(self) -> None:
        """Hide the prediction."""
        self.unfinished.clear()
        if self.layer is not None:
            self.layer.data = np.zeros(self.session.need_scan().geometry.shape_zyx, np.uint8)
            self.layer.visible = False
        self.changed.emit()

    def _on_deleted(self, run: str) -> None:
        if run in [key.run for key in (self.shown, self.other) if key is not None]:
            self.show_newest()

    def _clear(self) -> None:
        """Forget the predictions of the last scan."""
        self._cancel()
        self.shown = self.other = None
        self.postprocessing, self._labels = Postprocessing(), {}

    def _cancel(self) -> None:
        self._compare.stop()
        self._clean.stop()
        self.previewed, self.changes = Postprocessing(), {}

    def _on_predicted(self, scan: str, run: str) -> None:
        looked_at_again = self.session.job.kind == "predict" and run == self.shown_run
        if scan == self.session.scan and not looked_at_again:
            self._labels.pop(PredictionKey(run), None)
            catch_errors(self.session, lambda: self.show(run))

    def _compare_with_other(self) -> None:
        if self.other is None or self.shown is None:
            return
        project, scan, other = self.session.need_project(), self.session.need_scan(), self.other
        now, before = self._labels[self.shown], self._labels.get(other)

        def compare() -> Iterator[tuple[np.ndarray, VolumeChanges]]:
            earlier = _read(project, scan.id, other) if before is None else before
            yield earlier, changes_between(earlier, now, scan.geometry.voxel_ml)

        def take(result: tuple[np.ndarray, VolumeChanges]) -> None:
            self._labels[other], self.changes = result
            self.changed.emit()

        self._compare.submit(compare, take)

    # --- cleaning up ---------------------------------------------------------------------------------

    def preview(self, postprocessing: Postprocessing) -> None:
        """Show the prediction post-processed, without saving it.

        Args:
            postprocessing: The options; without any the saved prediction is shown again.

        Raises:
            UserError: "no-prediction".
        """
        shown, scan, project = self.need_shown(), self.session.need_scan(), self.session.need_project()
        if not postprocessing:
            self.show(shown.run, shown.cleaned)
            return
        self._compare.stop()
        raw = self._labels.get(PredictionKey(shown.run))
        self.previewed, self.changes = postprocessing, {}

        def compute() -> Iterator[tuple[np.ndarray, VolumeChanges]]:
            labels = _read(project, scan.id, PredictionKey(shown.run)) if raw is None else raw
            result = clean(labels, postprocessing, scan.geometry.voxel_ml)
            yield result, changes_between(labels, result, scan.geometry.voxel_ml)

        def take(result: tuple[np.ndarray, VolumeChanges]) -> None:
            labels, self.changes = result
            self.show_labels(labels)
            self.changed.emit()

        self._clean.submit(compute, take)
        self.changed.emit()

    def apply(self) -> None:
        """Save the previewed post-processing as a prediction of its own; the original is kept.

        Raises:
            UserError: "no-prediction", "read-only".
        """
        shown, scan, project = self.need_shown(), self.session.need_scan(), self.session.need_project()
        postprocessing = self.previewed
        project.need_writable()
        if postprocessing:
            self._labels.pop(PredictionKey(shown.run, True), None)
            steps = _postprocessed(project, scan, shown.run, postprocessing)
            self._clean.submit(lambda: steps, lambda _: self.show(shown.run, cleaned=True))

    @property
    def busy(self) -> bool:
        """Whether post-processing is running."""
        return self._clean.busy

    def need_shown(self) -> PredictionKey:
        """The prediction on the screen.

        Raises:
            UserError: "no-prediction".
        """
        if self.shown is None:
            raise UserError(
                "There is no prediction of this scan yet; fine-tune first (step 4).", code="no-prediction"
            )
        return self.shown


def _read(project: Project, scan: str, wanted: PredictionKey) -> np.ndarray:
    if wanted.cleaned:
        return read_cleaned(project, wanted.run, scan)
    labels = project.prediction(wanted.run, scan)
    if labels is None:
        title = project.scan(scan).title
        raise UserError(f"{title} has no prediction of {wanted.run}; predict it first.", code="no-prediction")
    return labels


def _postprocessed(
    project: Project, scan: Scan, run: str, postprocessing: Postprocessing
) -> Iterator[Postprocessing]:
    """Runs in a thread; computed again, so that the saved labels match the options."""
    labels = clean(_read(project, scan.id, PredictionKey(run)), postprocessing, scan.geometry.voxel_ml)
    save_cleaned(project, run, scan.id, postprocessing, labels)
    yield postprocessing


def _previous(entries: list[PredictionKey], shown: PredictionKey) -> PredictionKey | None:
    """The prediction before this one; entries are sorted newest first."""
    position = entries.index(shown) if shown in entries else len(entries)
    return next(iter(entries[position + 1 :]), None)


def changes_between(before: np.ndarray, after: np.ndarray, voxel_ml: float) -> VolumeChanges:
    """Volumes that were added to and removed from each class.

    Args:
        before: Labels (Z, Y, X).
        after: Labels (Z, Y, X).
        voxel_ml: Volume of a voxel in ml.

    Returns:
        (added, removed) in ml by class id; unchanged classes are left out.
    """
    gained, lost = np.zeros(256), np.zeros(256)
    for old, new in zip(before, after, strict=True):  # slice by slice: masks of a whole scan are large
        differ = old != new
        gained += np.bincount(new[differ], minlength=256)
        lost += np.bincount(old[differ], minlength=256)
    result = [int(class_id) for class_id in np.flatnonzero(gained + lost) if class_id]
    return {
        class_id: (float(gained[class_id]) * voxel_ml, float(lost[class_id]) * voxel_ml)
        for class_id in result
    }
