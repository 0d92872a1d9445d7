"""What networks answered about the scan on the screen: shown, compared, cleaned up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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
from napari_medssl.error_handling import guarded
from napari_medssl.latest_only_worker import Background
from napari_medssl.model.session import Session

Changes = dict[int, tuple[float, float]]
"""By class id: ml that came, ml that went."""


@dataclass(frozen=True)
class Shown:
    """A prediction of a scan: a run's, or what was made of it by cleaning up."""

    run: str
    cleaned: bool = False


class Predictions:
    """One locked layer. `other` is the prediction that one key goes to; `changes` is what differs from it."""

    changed = Signal()
    """Another prediction is on the screen, or more is known of it."""

    def __init__(self, viewer: ViewerModel, session: Session) -> None:
        self.viewer, self.session = viewer, session
        self.shown: Shown | None = None
        self.other: Shown | None = None
        self.postprocessing = Postprocessing()
        """How the prediction on the screen was cleaned, and kept so."""
        self.previewed = Postprocessing()
        """What is being tried on it."""
        self.unfinished: set[tuple[int, int]] = set()
        """Slices (axis, index) of the layer that a training still works at (live_preview.py)."""
        self.changes: Changes = {}
        """Against the other prediction; while cleaning is tried, against the run's own."""
        self._labels: dict[Shown, np.ndarray] = {}
        self._compare, self._clean = Background(self.session), Background(self.session)
        self.session.scan_changed.connect(self._forget)
        self.session.project_changed.connect(self._forget)
        self.session.predicted.connect(self._on_predicted)

    @property
    def layer(self) -> Labels | None:
        """The network's answer."""
        return layers.find(self.viewer.layers, layers.PREDICTION)

    @property
    def shown_run(self) -> str:
        """The run whose prediction is on the screen, "" for none."""
        return self.shown.run if self.shown else ""

    def entries(self) -> list[Shown]:
        """All predictions of the scan on the screen, the newest first."""
        found = []
        for run in self.session.predictions():
            cleaned = (run.folder / "predictions" / f"{self.session.scan}.cleaned.json").exists()
            found += [Shown(run.id, True)] if cleaned else []
            found.append(Shown(run.id))
        return found

    # --- showing -------------------------------------------------------------------------------------

    def show_newest(self) -> None:
        """Show the newest prediction of the scan on the screen, if there is one."""
        self._forget()
        newest = next(iter(self.entries()), None)
        if newest is None:
            self.hide()
        else:
            self.show(newest.run, newest.cleaned)

    def show(self, run: str, cleaned: bool = False) -> None:
        """Show what a run predicted for the scan, or what was made of it.

        Raises UserError ("no-prediction", "no-cleaned", "unreadable").
        """
        wanted, scan = Shown(run, cleaned), self.session.need_scan()
        self._stop()
        if wanted not in self._labels:
            self._labels[wanted] = _read(self.session.need_project(), scan.id, wanted)
        how = postprocessing_of(self.session.need_project(), run, scan.id) if cleaned else None
        self.postprocessing = how or Postprocessing()
        if self.shown not in (None, wanted):
            self.other = self.shown
        self.shown = wanted
        if self.other in (None, wanted):
            self.other = _after(self.entries(), wanted)
        self._labels = {key: self._labels[key] for key in (wanted, self.other) if key in self._labels}
        self.put(self._labels[wanted])
        self._compare_with_other()
        self.changed.emit()

    def flip(self) -> None:
        """Show the other prediction; the next flip goes back."""
        if self.other is None:
            self.session.tell("info", "There is only one prediction of this scan so far.")
        else:
            self.show(self.other.run, self.other.cleaned)

    def toggle(self) -> None:
        """Hide or show the prediction, to look at the scan below."""
        if self.layer is not None:
            self.layer.visible = not self.layer.visible

    def put(self, labels: np.ndarray) -> None:
        """Show these labels in the layer; nothing of that is kept."""
        self.unfinished.clear()
        scan, layer, project = self.session.need_scan(), self.layer, self.session.need_project()
        if layer is None:
            layer = layers.prediction_layer(labels, scan.geometry, scan.id, project.classes)
            below = layers.find(self.viewer.layers, layers.ANNOTATION)
            place = self.viewer.layers.index(below) if below is not None else len(self.viewer.layers)
            layers.add(self.viewer, layer, place)
        layer.data = labels
        layer.scale = scan.geometry.spacing_mm
        layer.metadata = layers.metadata(layers.PREDICTION, scan.geometry, scan=scan.id)
        layer.visible = True

    def hide(self) -> None:
        """Show none."""
        self.unfinished.clear()
        if self.layer is not None:
            self.layer.data = np.zeros(self.session.need_scan().geometry.shape_zyx, np.uint8)
            self.layer.visible = False
        self.changed.emit()

    def _forget(self) -> None:
        """Another scan: nothing of the last one's predictions holds."""
        self._stop()
        self.shown = self.other = None
        self.postprocessing, self._labels = Postprocessing(), {}

    def _stop(self) -> None:
        self._compare.stop()
        self._clean.stop()
        self.previewed, self.changes = Postprocessing(), {}

    def _on_predicted(self, scan: str, run: str) -> None:
        looked_at_again = self.session.job.kind == "predict" and run == self.shown_run
        if scan == self.session.scan and not looked_at_again:
            self._labels.pop(Shown(run), None)
            guarded(self.session, lambda: self.show(run))

    def _compare_with_other(self) -> None:
        if self.other is None or self.shown is None:
            return
        project, scan, other = self.session.need_project(), self.session.need_scan(), self.other
        now, before = self._labels[self.shown], self._labels.get(other)

        def compare() -> Iterator[tuple[np.ndarray, Changes]]:
            earlier = _read(project, scan.id, other) if before is None else before
            yield earlier, changes_between(earlier, now, scan.geometry.voxel_ml)

        def take(result: tuple[np.ndarray, Changes]) -> None:
            self._labels[other], self.changes = result
            self.changed.emit()

        self._compare.ask(compare, take)

    # --- cleaning up ---------------------------------------------------------------------------------

    def preview(self, postprocessing: Postprocessing) -> None:
        """Show what cleaning makes of the run's prediction, without keeping it; none shows the prediction.

        Raises UserError ("no-prediction").
        """
        shown, scan, project = self.need_shown(), self.session.need_scan(), self.session.need_project()
        if not postprocessing:
            self.show(shown.run, shown.cleaned)
            return
        self._compare.stop()
        raw = self._labels.get(Shown(shown.run))
        self.previewed, self.changes = postprocessing, {}

        def compute() -> Iterator[tuple[np.ndarray, Changes]]:
            own = _read(project, scan.id, Shown(shown.run)) if raw is None else raw
            result = clean(own, postprocessing, scan.geometry.voxel_ml)
            yield result, changes_between(own, result, scan.geometry.voxel_ml)

        def take(result: tuple[np.ndarray, Changes]) -> None:
            labels, self.changes = result
            self.put(labels)
            self.changed.emit()

        self._clean.ask(compute, take)
        self.changed.emit()

    def apply(self) -> None:
        """Keep what is tried as a prediction of its own; the run's stays as it is.

        Raises UserError ("no-prediction", "read-only").
        """
        shown, scan, project = self.need_shown(), self.session.need_scan(), self.session.need_project()
        postprocessing = self.previewed
        project.need_writable()
        if postprocessing:
            self._labels.pop(Shown(shown.run, True), None)
            steps = _kept(project, scan, shown.run, postprocessing)
            self._clean.ask(lambda: steps, lambda _: self.show(shown.run, cleaned=True))

    @property
    def busy(self) -> bool:
        """Whether something is being cleaned up."""
        return self._clean.busy

    def need_shown(self) -> Shown:
        """The prediction on the screen. Raises UserError ("no-prediction")."""
        if self.shown is None:
            raise UserError(
                "There is no prediction of this scan yet; fine-tune first (step 4).", code="no-prediction"
            )
        return self.shown


def _read(project: Project, scan: str, wanted: Shown) -> np.ndarray:
    if wanted.cleaned:
        return read_cleaned(project, wanted.run, scan)
    labels = project.prediction(wanted.run, scan)
    if labels is None:
        raise UserError(f"{scan} has no prediction of {wanted.run}.", code="no-prediction")
    return labels


def _kept(project: Project, scan: Scan, run: str, postprocessing: Postprocessing) -> Iterator[Any]:
    """In a thread: computed again, so that what is kept is surely what was asked for."""
    labels = clean(_read(project, scan.id, Shown(run)), postprocessing, scan.geometry.voxel_ml)
    save_cleaned(project, run, scan.id, postprocessing, labels)
    yield postprocessing


def _after(entries: list[Shown], shown: Shown) -> Shown | None:
    """The prediction before this one: older ones come later in the list."""
    place = entries.index(shown) if shown in entries else len(entries)
    return next(iter(entries[place + 1 :]), None)


def changes_between(before: np.ndarray, after: np.ndarray, voxel_ml: float) -> Changes:
    """What came to each class and what went, in ml; classes without a change are left out."""
    came, went = np.zeros(256), np.zeros(256)
    for old, new in zip(before, after, strict=True):  # slice by slice: masks of a whole scan are large
        differ = old != new
        came += np.bincount(new[differ], minlength=256)
        went += np.bincount(old[differ], minlength=256)
    found = [int(each) for each in np.flatnonzero(came + went) if each]
    return {each: (float(came[each]) * voxel_ml, float(went[each]) * voxel_ml) for each in found}
