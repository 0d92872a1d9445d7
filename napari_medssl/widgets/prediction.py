"""Step 5: look at what was predicted, and export it."""

from __future__ import annotations

from qtpy.QtWidgets import QComboBox, QFormLayout, QWidget

from napari_medssl.guard import guarded
from napari_medssl.jobs import Jobs
from napari_medssl.session import Session
from napari_medssl.widgets.export import Export
from napari_medssl.widgets.finetune import describe
from napari_medssl.widgets.parts import button, column, hint, row
from napari_medssl.workspace import Workspace

NOTHING = "There is no prediction of this scan yet; fine-tune first (step 4)."


class Prediction(QWidget):
    """The predictions so far; export."""

    title = "Prediction"

    def __init__(self, session: Session, workspace: Workspace, jobs: Jobs) -> None:
        super().__init__()
        self.session, self.predictions = session, workspace.predictions
        self.choice = QComboBox()
        self.choice.setToolTip("Earlier predictions are kept; choose one to look at it")
        self.choice.activated.connect(self._on_chosen)
        self.form = QFormLayout()
        self.form.addRow("Prediction", self.choice)
        self.hide_it = button(
            "Show / hide", self.predictions.toggle, "Look at the scan without the prediction (H)"
        )
        self.out = Export(session, workspace, jobs)
        self.words = hint(NOTHING)
        column(self, self.form, row(self.hide_it, self.out, stretch=1), self.out.panel, self.words)
        for signal in (session.project_changed, session.scan_changed, session.runs_changed):
            signal.connect(self.refresh)
        session.predicted.connect(lambda scan, run: self.refresh())
        self.refresh()

    def summary(self) -> str:
        """For the step's header."""
        number = len(self.session.predictions())
        return f"{number} predictions" if number > 1 else "1 prediction" if number else ""

    def refresh(self) -> None:
        """Show the predictions that there are."""
        self._fill()
        some = self.choice.count() > 0
        self.form.setRowVisible(0, some)
        for widget in (self.hide_it, self.out):
            widget.setVisible(some)
        self.words.setVisible(not some)

    def _fill(self) -> None:
        self.choice.clear()
        for number, run in enumerate(self.session.predictions()):
            self.choice.addItem(describe(run), run.id)
            if run.id == self.predictions.shown_run:
                self.choice.setCurrentIndex(number)

    def _on_chosen(self, number: int) -> None:
        run = self.choice.itemData(number)
        guarded(self.session, lambda: self.predictions.show(run))
