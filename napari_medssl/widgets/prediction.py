"""Step 5: review, compare, correct, post-process and export predictions."""

from __future__ import annotations

from dataclasses import replace

from medssl.core import settings
from medssl.core.errors import UserError
from medssl.core.labels.postprocess import Postprocessing
from medssl.core.project.training_data import unlike_training
from qtpy.QtWidgets import QCheckBox, QDoubleSpinBox, QFormLayout, QWidget
from superqt.utils import qdebounced

from napari_medssl.annotate.edits import Edits
from napari_medssl.engine.job_runner import JobRunner
from napari_medssl.error_handling import catch_errors
from napari_medssl.model.job_factory import predict_job
from napari_medssl.model.reasons import job_blocked
from napari_medssl.model.session import Session
from napari_medssl.predict.predictions import ONE_PREDICTION, PredictionKey, VolumeChanges
from napari_medssl.predict.uncertainty_layer import CLASSES_ONLY, UNCERTAINTY, UncertaintyLayer
from napari_medssl.widgets.advanced import Advanced
from napari_medssl.widgets.components import (
    StepContent,
    allow,
    button,
    column,
    combo_box,
    fill_box,
    hint,
    row,
)  # fmt: skip
from napari_medssl.widgets.export import Export
from napari_medssl.widgets.finetune import describe
from napari_medssl.widgets.review import Review
from napari_medssl.widgets.run_menu import RIGHT_CLICK, RunMenu
from napari_medssl.widgets.status_slot import StatusSlot
from napari_medssl.widgets.weights_export import WeightsExport
from napari_medssl.workspace import Workspace

NO_PREDICTION = "There is no prediction of this scan yet; fine-tune first (step 4)."
NOT_SEGMENTED = "Not segmented with the newest fine-tuning yet."
SEGMENTED = "The newest fine-tuning has segmented this scan."
NOTHING_TO_COMPARE = "There is nothing to compare yet."
NO_CLEAN_UP = "Nothing to apply; choose a clean-up first."
PAUSE_MS = 300


class Prediction(StepContent):
    """Choice of the prediction and of what is shown, accepting slices, post-processing, export."""

    title = "Prediction"
    kinds = ("predict", Export.kind, WeightsExport.kind)

    def __init__(self, session: Session, workspace: Workspace, jobs: JobRunner, edits: Edits) -> None:
        super().__init__()
        self.session, self.predictions, self.edits = session, workspace.predictions, edits
        self.jobs = jobs
        self.uncertainty = UncertaintyLayer(self.predictions, jobs)
        self.prediction_box = combo_box()
        self.prediction_box.setToolTip(f"Earlier predictions are kept; select one to show it; {RIGHT_CLICK}")
        self.run_menu = RunMenu(session, self.prediction_box, lambda: self.predictions.shown_run)
        self.prediction_box.activated.connect(self._on_chosen)
        self.display_box = combo_box()
        self.display_box.setToolTip(
            "Show the classes, the uncertainty of the network or the probability of a class; computed on "
            "first use, then saved"
        )
        self.display_box.activated.connect(self._on_display)
        form = QFormLayout()
        form.addRow("Prediction", self.prediction_box)
        form.addRow("Show", self.display_box)
        self.flip = button("Flip to previous", self.go_back, "Switch to the previous prediction and back (J)")
        self.toggle_button = button("Show / hide", self.predictions.toggle, "Show or hide the prediction (H)")
        self.difference = hint()
        self.difference.setFixedHeight(2 * self.difference.fontMetrics().lineSpacing())
        self.accept = button(
            "Accept slice", self.accept_slice,
            "Copy this slice of the prediction into the annotation and mark it complete; your strokes are "
            "kept. Ctrl+Z undoes it (U)",
        )  # fmt: skip
        self.status = StatusSlot(session, self.kinds, jobs.stop)
        self.panel = self.status.panel
        self.advanced = Advanced()
        self.advanced.show_settings("predict", settings.of_prediction)
        self.export = Export(session, workspace, jobs, self.advanced.values)
        self.review = Review(workspace, jobs, edits, self.advanced.values)
        self.segment = button(
            "Segment this scan", self.segment_scan, "Segment with the newest fine-tuning", primary=True
        )
        self._content = QWidget()
        column(
            self._content, form, row(self.toggle_button, self.flip), self.difference, self.accept,
            self._postprocessing_form(),
        ).setContentsMargins(0, 0, 0, 0)  # fmt: skip
        self._segmenting = QWidget()
        column(self._segmenting, row(self.segment, self.review.segment_all)).setContentsMargins(0, 0, 0, 0)
        # Constant heights, so that nothing moves from scan to scan, nor when a job starts or ends.
        column(
            self, self._segmenting, self.status, self.review, self._content, self.export, self.advanced,
        )  # fmt: skip
        for signal in (session.project_changed, session.scan_changed, session.runs_changed,
                       session.classes_changed, session.job_changed, session.lock_changed,
                       self.predictions.changed, self.uncertainty.changed,
                       self.review.queue.changed):  # fmt: skip
            signal.connect(self.refresh)
        self.refresh()

    def _postprocessing_form(self) -> QFormLayout:
        """Options of post-processing: previewed at once, saved by a button."""
        self.largest = QCheckBox("Largest component")
        self.largest.setToolTip("Keep the largest connected component of each class")
        self.holes = QCheckBox("Fill holes")
        self.holes.setToolTip("Fill background that a class encloses")
        self.min_volume = QDoubleSpinBox()
        self.min_volume.setToolTip("Remove connected components smaller than this")
        self.min_volume.setDecimals(2)
        self.min_volume.setRange(0, 1000)
        self.min_volume.setSingleStep(0.1)
        self.min_volume.setSuffix(" ml")
        self.min_volume.setSpecialValueText("none")
        self.apply_button = button(
            "Apply", self.apply_postprocessing, "Save it as a separate prediction, which is exported"
        )
        self._soon = qdebounced(self._preview, timeout=PAUSE_MS)
        for box in (self.largest, self.holes):
            box.toggled.connect(self._soon)
        self.min_volume.valueChanged.connect(self._soon)
        form = QFormLayout()
        form.addRow(row(self.largest, self.holes))
        form.addRow("Min. size", row(self.min_volume, self.apply_button))
        return form

    def summary(self) -> str:
        """How many predictions the scan has."""
        number = len(self.predictions.entries())
        return f"{number} predictions" if number > 1 else "1 prediction" if number else ""

    # --- what the buttons do -------------------------------------------------------------------------

    def segment_scan(self) -> None:
        """Segment the scan on the screen with the newest fine-tuning."""
        job = predict_job(self.session)
        if job is not None:
            catch_errors(self.session, lambda: self.jobs.start(replace(job, **self.advanced.values())))

    def go_back(self) -> None:
        """Show the other prediction."""
        catch_errors(self.session, self.predictions.flip)

    def accept_slice(self) -> None:
        """Copy the slice on the screen into the annotation."""
        catch_errors(self.session, self.edits.accept)

    def apply_postprocessing(self) -> None:
        """Save the previewed post-processing."""
        catch_errors(self.session, self.predictions.apply)
        self.refresh()

    def _on_chosen(self, number: int) -> None:
        entry = self.prediction_box.itemData(number)
        catch_errors(self.session, lambda: self.predictions.show(entry.run, entry.cleaned))

    def _on_display(self, number: int) -> None:
        content = self.display_box.itemData(number)
        catch_errors(self.session, lambda: self.uncertainty.show(content))
        self.refresh()

    def _preview(self) -> None:
        if not self.session.closed and self._chosen() != self.predictions.previewed:
            catch_errors(self.session, lambda: self.predictions.preview(self._chosen()))

    def _chosen(self) -> Postprocessing:
        return Postprocessing(
            self.largest.isChecked(), round(self.min_volume.value(), 2), self.holes.isChecked()
        )

    # --- what it shows -------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Show the predictions of the scan on the screen."""
        predictions = self.predictions
        entries = predictions.entries()
        can_predict, can_export = bool(self.session.runs("finetune")), self.session.scan is not None
        has_work = can_export and (can_predict or bool(entries))
        for part in (self._segmenting, self._content):
            part.setVisible(has_work)
        self.advanced.setVisible(has_work and not self.session.read_only)
        self.export.setVisible(can_export)
        not_segmented = predict_job(self.session) is not None
        missing = NOT_SEGMENTED if not_segmented else "" if entries else NO_PREDICTION
        self.status.say(
            unlike=self._unlike_training(), state=missing or SEGMENTED, scans=self.review.progress
        )
        allow(self.segment, job_blocked(self.session) or ("" if not_segmented else SEGMENTED))
        self._fill_predictions(entries)
        self._fill_display()
        self._allow_controls("" if entries else missing)
        if not predictions.previewed:
            self._reset_options()
        difference = self._difference()
        self.difference.setText(difference)
        self.difference.setToolTip(difference)

    def _allow_controls(self, missing: str) -> None:
        """Grey what cannot be used.

        Args:
            missing: Why there is no prediction of the scan on the screen; empty if there is one.
        """
        predictions, read_only = self.predictions, self.session.read_only
        for control in (self.prediction_box, self.toggle_button, self.largest, self.holes, self.min_volume):
            allow(control, missing)
        allow(self.flip, missing or ("" if predictions.other is not None else ONE_PREDICTION))
        allow(self.display_box, missing or job_blocked(self.session))
        allow(self.accept, read_only or missing)
        allow(self.apply_button, read_only or missing or ("" if predictions.previewed else NO_CLEAN_UP))

    def _unlike_training(self) -> str:
        """How the scan differs from those that the shown, or else the newest, fine-tuning was trained on."""
        project, shown = self.session.project, self.predictions.shown
        runs = [run for run in self.session.runs("finetune") if shown is None or run.id == shown.run]
        if project is None or self.session.scan is None or not runs:
            return ""
        try:
            return unlike_training(runs[0].card, project.scans[self.session.scan])
        except UserError:
            return ""  # a damaged card, which whoever uses these weights reports

    def _fill_predictions(self, entries: list[PredictionKey]) -> None:
        runs = {run.id: run for run in self.session.predictions()}
        names = (describe(runs[entry.run]) + ", cleaned up" * entry.cleaned for entry in entries)
        fill_box(self.prediction_box, list(zip(names, entries, strict=True)))
        if self.predictions.shown in entries:
            self.prediction_box.setCurrentIndex(entries.index(self.predictions.shown))

    def _fill_display(self) -> None:
        classes = self.session.project.classes if self.session.project else ()
        items = [("Classes", CLASSES_ONLY), ("Uncertainty", UNCERTAINTY)]
        items += [(f"Probability of {item.name}", item.id) for item in classes]
        fill_box(self.display_box, items)
        self.display_box.setCurrentIndex(max(0, self.display_box.findData(self.uncertainty.displayed)))

    def _reset_options(self) -> None:
        for widget in (self.largest, self.holes, self.min_volume):
            widget.blockSignals(True)
        self.largest.setChecked(False)
        self.holes.setChecked(False)
        self.min_volume.setValue(0)
        for widget in (self.largest, self.holes, self.min_volume):
            widget.blockSignals(False)

    def _difference(self) -> str:
        """Changed volumes in ml, compared with the other prediction or by post-processing."""
        predictions = self.predictions
        if predictions.shown is None:
            return NOTHING_TO_COMPARE
        if predictions.previewed:
            if predictions.busy and not predictions.changes:
                return "Cleaning up…"
            return f"Cleaned up, not saved yet: {self._changes(predictions.changes)}."
        runs = {run.id: run for run in self.session.predictions()}
        if predictions.other is None or predictions.other.run not in runs or predictions.busy:
            return ONE_PREDICTION if predictions.other is None else ""
        number = predictions.other.run.split("-")[0].lstrip("0")
        which = f"run {number}" + ", cleaned up" * predictions.other.cleaned
        return f"Compared with {which}: {self._changes(predictions.changes)}."

    def _changes(self, changes: VolumeChanges) -> str:
        names = {item.id: item.name for item in self.session.need_project().classes}
        parts = [
            f"{names.get(class_id, f'class {class_id}')} {_gain_and_loss(gained, lost)} ml"
            for class_id, (gained, lost) in changes.items()
        ]
        return ", ".join(parts) or "nothing changed"


def _gain_and_loss(gained: float, lost: float) -> str:
    return " ".join(f"{sign}{ml:.2f}" for sign, ml in (("+", gained), ("−", lost)) if ml)
