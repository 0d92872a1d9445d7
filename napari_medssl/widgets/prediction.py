"""Step 5: look at what was predicted and how sure that is, compare, take slices over, clean up, export."""

from __future__ import annotations

from medssl.core.labels.postprocess import Postprocessing
from qtpy.QtWidgets import QCheckBox, QComboBox, QDoubleSpinBox, QFormLayout, QWidget
from superqt.utils import qdebounced

from napari_medssl.annotate.edits import Edits
from napari_medssl.engine.child_process import Jobs
from napari_medssl.error_handling import guarded
from napari_medssl.model.job_factory import predict_job
from napari_medssl.model.session import Session
from napari_medssl.predict.predictions import Changes, Shown
from napari_medssl.predict.uncertainty_layer import NOTHING, UNCERTAINTY, Certainty
from napari_medssl.widgets.export import Export
from napari_medssl.widgets.finetune import describe
from napari_medssl.widgets.parts import JobPanel, button, column, hint, row
from napari_medssl.workspace import Workspace

EMPTY = "There is no prediction of this scan yet; fine-tune first (step 4)."
WAITING = "The newest fine-tuning has not seen this scan."
PAUSE_MS = 300


class Prediction(QWidget):
    """Which prediction, what of it is shown, a slice of it as annotation, cleaning up, files."""

    title = "Prediction"

    def __init__(self, session: Session, workspace: Workspace, jobs: Jobs, edits: Edits) -> None:
        super().__init__()
        self.session, self.predictions, self.edits = session, workspace.predictions, edits
        self.jobs = jobs
        self.certainty = Certainty(self.predictions, jobs)
        self.choice = QComboBox()
        self.choice.setToolTip("Earlier predictions are kept; choose one to look at it")
        self.choice.activated.connect(self._on_chosen)
        self.what = QComboBox()
        self.what.setToolTip(
            "What is shown over the scan: classes, where the network is unsure, or how probable a class is; "
            "computed when it is asked for first, then kept"
        )
        self.what.activated.connect(self._on_what)
        form = QFormLayout()
        form.addRow("Prediction", self.choice)
        form.addRow("Show", self.what)
        self.flip = button(
            "Flip to previous", self.go_back, "To the prediction before this one, and back (J)"
        )
        self.hide_it = button(
            "Show / hide", self.predictions.toggle, "Look at the scan without the prediction (H)"
        )
        self.difference = hint()
        self.accept = button(
            "Accept slice", self.accept_slice,
            "Take this slice of the prediction into the annotation and mark it complete; what you painted "
            "there stays. Ctrl+Z takes it back (U)",
        )  # fmt: skip
        self.panel = JobPanel(session, "predict", jobs.stop, curve=False)
        self.out = Export(session, workspace, jobs)
        self.words = hint(EMPTY)
        self.segment = button(
            "Segment this scan", self.segment_scan, "With the newest fine-tuning, as it is", primary=True
        )
        self._shown_parts = QWidget()
        column(
            self._shown_parts, form, row(self.hide_it, self.flip), self.difference, self.accept,
            self._postprocessing(), self.out, self.out.panel,
        ).setContentsMargins(0, 0, 0, 0)  # fmt: skip
        column(self, self.words, self.segment, self.panel, self._shown_parts)
        for signal in (session.project_changed, session.scan_changed, session.runs_changed,
                       session.classes_changed, session.job_changed,
                       self.predictions.changed, self.certainty.changed):  # fmt: skip
            signal.connect(self.refresh)
        self.refresh()

    def _postprocessing(self) -> QFormLayout:
        """The options of cleaning up, shown at once, kept by a button."""
        self.largest = QCheckBox("Largest part only")
        self.largest.setToolTip("Of each class, keep its largest connected part")
        self.holes = QCheckBox("Fill holes")
        self.holes.setToolTip("Background that a class encloses from all sides becomes that class")
        self.drop = QDoubleSpinBox()
        self.drop.setToolTip("Drop connected parts that are smaller than this")
        self.drop.setDecimals(2)
        self.drop.setRange(0, 1000)
        self.drop.setSingleStep(0.1)
        self.drop.setSuffix(" ml")
        self.drop.setSpecialValueText("nothing")
        self.keep = button(
            "Apply", self.keep_cleaned, "Keep it as a prediction of its own, which is exported then"
        )
        self._soon = qdebounced(self._preview, timeout=PAUSE_MS)
        for box in (self.largest, self.holes):
            box.toggled.connect(self._soon)
        self.drop.valueChanged.connect(self._soon)
        form = QFormLayout()
        form.addRow("Clean up", row(self.largest, self.holes))
        form.addRow("Drop below", row(self.drop, self.keep))
        return form

    def summary(self) -> str:
        """For the step's header."""
        number = len(self.predictions.entries())
        return f"{number} predictions" if number > 1 else "1 prediction" if number else ""

    # --- what the buttons do -------------------------------------------------------------------------

    def segment_scan(self) -> None:
        """Segment the scan on the screen with the newest fine-tuning."""
        job = predict_job(self.session)
        if job is not None:
            guarded(self.session, lambda: self.jobs.start(job))

    def go_back(self) -> None:
        """Show the other prediction."""
        guarded(self.session, self.predictions.flip)

    def accept_slice(self) -> None:
        """Take the slice on the screen into the annotation."""
        guarded(self.session, self.edits.accept)

    def keep_cleaned(self) -> None:
        """Keep what is tried."""
        guarded(self.session, self.predictions.apply)
        self.refresh()

    def _on_chosen(self, number: int) -> None:
        entry = self.choice.itemData(number)
        guarded(self.session, lambda: self.predictions.show(entry.run, entry.cleaned))

    def _on_what(self, number: int) -> None:
        what = self.what.itemData(number)
        guarded(self.session, lambda: self.certainty.show(what))
        self.refresh()

    def _preview(self) -> None:
        if not self.session.closed and self._wanted() != self.predictions.previewed:
            guarded(self.session, lambda: self.predictions.preview(self._wanted()))

    def _wanted(self) -> Postprocessing:
        return Postprocessing(self.largest.isChecked(), round(self.drop.value(), 2), self.holes.isChecked())

    # --- what it shows -------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Show the predictions that there are."""
        predictions = self.predictions
        entries = predictions.entries()
        self._shown_parts.setVisible(bool(entries))
        waiting = predict_job(self.session) is not None
        self.words.setText(WAITING if waiting else EMPTY)
        self.words.setVisible(waiting or not entries)
        self.segment.setVisible(waiting)
        self.segment.setEnabled(self.session.idle)
        self._fill(entries)
        self._fill_what()
        job = self.session.job
        self.panel.setVisible(job.running and job.kind == "predict")
        self.flip.setEnabled(predictions.other is not None)
        self.what.setEnabled(self.session.idle)
        self.keep.setEnabled(bool(predictions.previewed) and not self.session.read_only)
        if not predictions.previewed:
            self._forget_options()
        self.difference.setText(self._difference())
        self.difference.setVisible(bool(self.difference.text()))

    def _fill(self, entries: list[Shown]) -> None:
        runs = {run.id: run for run in self.session.predictions()}
        self.choice.clear()
        for number, entry in enumerate(entries):
            self.choice.addItem(describe(runs[entry.run]) + ", cleaned up" * entry.cleaned, entry)
            if entry == self.predictions.shown:
                self.choice.setCurrentIndex(number)

    def _fill_what(self) -> None:
        classes = self.session.project.classes if self.session.project else ()
        items = [("Classes", NOTHING), ("Where it is unsure", UNCERTAINTY)]
        items += [(f"Probability of {item.name}", item.id) for item in classes]
        self.what.clear()
        for text, what in items:
            self.what.addItem(text, what)
        self.what.setCurrentIndex(max(0, self.what.findData(self.certainty.what)))

    def _forget_options(self) -> None:
        for widget in (self.largest, self.holes, self.drop):
            widget.blockSignals(True)
        self.largest.setChecked(False)
        self.holes.setChecked(False)
        self.drop.setValue(0)
        for widget in (self.largest, self.holes, self.drop):
            widget.blockSignals(False)

    def _difference(self) -> str:
        """What changed, in ml, against the other prediction or by cleaning up."""
        predictions = self.predictions
        if predictions.previewed:
            if predictions.busy and not predictions.changes:
                return "Cleaning up…"
            return f"Cleaned up, not kept yet: {self._changes(predictions.changes)}."
        runs = {run.id: run for run in self.session.predictions()}
        if predictions.other is None or predictions.other.run not in runs or predictions.busy:
            return ""
        number = predictions.other.run.split("-")[0].lstrip("0")
        which = f"run {number}" + ", cleaned up" * predictions.other.cleaned
        return f"Against {which}: {self._changes(predictions.changes)}."

    def _changes(self, changes: Changes) -> str:
        names = {item.id: item.name for item in self.session.need_project().classes}
        said = [
            f"{names.get(each, f'class {each}')} {_gain_and_loss(came, went)} ml"
            for each, (came, went) in changes.items()
        ]
        return ", ".join(said) or "nothing changed"


def _gain_and_loss(came: float, went: float) -> str:
    return " ".join(f"{sign}{ml:.2f}" for sign, ml in (("+", came), ("−", went)) if ml)
