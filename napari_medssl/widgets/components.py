"""Small widgets that several steps use."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from medssl.core import events
from medssl.core.jobs import TRAININGS
from qtpy.QtCore import Qt
from qtpy.QtGui import QAction, QStandardItem, QStandardItemModel
from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QHBoxLayout,
    QLabel,
    QLayout,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from napari_medssl.model.session import Session
from napari_medssl.qt import not_none
from napari_medssl.widgets.plots import LearningCurve, ProgressBar

STOP_TIP = "Stop after the current step and keep the weights; press again to stop at once"
STOP_SCANS_TIP = "Stop after the current scan and keep what is finished; press again to stop at once"
STOP_NOW = "Stop now"
OWN_TIP = "own_tip"
"""Property of a disabled control: the tooltip that it has when it is enabled."""
NO_LIMIT = 16_777_215
"""Qt's own maximum of a widget's height."""


def button(text: str, action: Callable[[], object], tip: str, primary: bool = False) -> QPushButton:
    """A push button.

    Args:
        text: Its label.
        action: Called without arguments on a click.
        tip: Its tooltip.
        primary: Whether it is highlighted as the next thing to do.
    """
    made = QPushButton(text)
    made.setToolTip(tip)
    made.setProperty("primary", primary)
    made.clicked.connect(lambda: action())
    return made


def allow(control: QWidget | QAction, why_not: str = "") -> None:
    """Enable a control; or disable it and give the reason as its tooltip.

    Args:
        control: A widget, or an entry of a menu. Its own tooltip comes back when it is enabled.
        why_not: Why it is disabled, one sentence; empty to enable it.
    """
    own = control.property(OWN_TIP)
    tip = control.toolTip() if own is None else own
    control.setProperty(OWN_TIP, tip if why_not else None)
    control.setToolTip(why_not or tip)
    control.setEnabled(not why_not)


def set_primary(button: QPushButton, primary: bool) -> None:
    """Highlight a button as the next thing to do, or not."""
    button.setProperty("primary", primary)
    repolish(button)


def repolish(widget: QWidget) -> None:
    """Apply the style sheet again after a property that it asks for has changed."""
    style = not_none(widget.style())
    style.unpolish(widget)
    style.polish(widget)


def hint(text: str = "") -> QLabel:
    """A word-wrapped label in muted colour."""
    label = QLabel(text)
    label.setWordWrap(True)
    label.setProperty("hint", True)
    return label


def row(*items: QWidget, stretch: int | None = None) -> QHBoxLayout:
    """Widgets side by side.

    Args:
        items: The widgets.
        stretch: Index of the one that takes the remaining width; None shares it equally.
    """
    layout = QHBoxLayout()
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(6)
    for position, item in enumerate(items):
        layout.addWidget(item, 1 if stretch in (None, position) else 0)
    return layout


def column(widget: QWidget, *items: QWidget | QLayout) -> QVBoxLayout:
    """Lay widgets and layouts out below each other in `widget`."""
    layout = QVBoxLayout(widget)
    layout.setContentsMargins(4, 8, 4, 10)
    layout.setSpacing(8)
    for item in items:
        if isinstance(item, QLayout):
            layout.addLayout(item)
        else:
            layout.addWidget(item)
    return layout


def combo_box() -> QComboBox:
    """A combo box that never widens the dock: long entries are cut off, but shown in full in the list."""
    box = QComboBox()
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(10)
    return box


def fill_box(box: QComboBox, items: Sequence[tuple[str, object]]) -> None:
    """Replace the entries of a combo box, unless they are the same: a list that is open stays as it is.

    Args:
        box: The combo box.
        items: Text and data of each entry.
    """
    if list(items) != [(box.itemText(number), box.itemData(number)) for number in range(box.count())]:
        box.clear()
        for text, data in items:
            box.addItem(text, data)


def combo_item(box: QComboBox, index: int) -> QStandardItem:
    """An entry of a combo box, to disable it or to ask whether it is enabled."""
    model = box.model()
    if not isinstance(model, QStandardItemModel):
        raise TypeError("the entries of this combo box come from another model")
    return not_none(model.item(index))


def minutes_box(value: float) -> QDoubleSpinBox:
    """A spin box for a time budget in minutes."""
    box = QDoubleSpinBox()
    box.setRange(0.1, 6000)
    box.setDecimals(1)
    box.setSuffix(" min")
    box.setAlignment(Qt.AlignmentFlag.AlignCenter)
    box.setValue(value)
    box.editingFinished.connect(not_none(box.lineEdit()).deselect)
    box.setToolTip("Training time; more scans and harder tasks need more")
    return box


class StepContent(QWidget):
    """The content of a step of the dock, below its header."""

    title = ""
    kinds: tuple[str, ...] = ()
    """Kinds of the jobs that are started here."""

    def summary(self) -> str:
        """Progress of the step in a few words, for the right of its header."""
        return ""


class Step(QCollapsible):
    """A step of the dock: a header with number, title and summary, and its content."""

    def __init__(self, number: int, content: StepContent) -> None:
        super().__init__(f"{number}   {content.title}")
        self.body = content
        # superqt's would keep it as low as text that is not wrapped, and centre it where it needs more.
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Preferred)
        header = self.toggleButton()
        header.setStyleSheet("")
        header.setProperty("header", True)
        header.setCursor(Qt.CursorShape.PointingHandCursor)
        self._summary = QLabel()
        self._summary.setProperty("summary", True)
        self._summary.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        inside = QHBoxLayout(header)
        inside.setContentsMargins(0, 0, 12, 0)
        inside.addStretch()
        inside.addWidget(self._summary)
        layout = not_none(self.layout())
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        self.content().setParent(None)
        content.setMaximumHeight(0)
        inner = content.layout()
        if isinstance(inner, QVBoxLayout):
            inner.addStretch(1)  # Qt gives wrapped text more height than it needs: nothing is spread over it
        self.setContent(content)
        self.setDuration(0)
        self.toggled.connect(self._grow)

    def refresh_summary(self) -> None:
        """Show the summary of the content in the header."""
        self._summary.setText(self.body.summary())

    def redraw_icons(self) -> None:
        """Draw the header's arrow in the text colour of the theme."""
        self.toggleButton().ensurePolished()
        self.setExpandedIcon("▾")
        self.setCollapsedIcon("▸")

    def _grow(self, expanded: bool) -> None:
        """Remove the height limit: the height of wrapped text depends on the width."""
        self.content().setMaximumHeight(NO_LIMIT if expanded else 0)


class JobPanel(QWidget):
    """Progress of the session's job if it is of this step's kind: phase, time left, stop, curves.

    What comes and goes stands below what is clicked, and the button keeps its room, so that nothing moves.
    """

    def __init__(self, session: Session, kinds: Collection[str], stop: Callable[[], object]) -> None:
        """Build the panel.

        Args:
            session: Has the job.
            kinds: Kinds of the jobs that it shows; trainings have curves and notices.
            stop: Called by the button.
        """
        super().__init__()
        self._session, self._kinds = session, kinds
        trains = any(kind in TRAININGS for kind in kinds)
        self._phase, self._time_left = QLabel(), hint()
        self._time_left.setWordWrap(False)
        self._time_left.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self._bar = ProgressBar()
        self.curve = LearningCurve() if trains else None
        self._notice = hint() if trains else None
        self.stop_button = button(STOP_NOW, stop, STOP_TIP if trains else STOP_SCANS_TIP)
        self.stop_button.setFixedWidth(self.stop_button.sizeHint().width())
        keeps_room = self.stop_button.sizePolicy()
        keeps_room.setRetainSizeWhenHidden(True)
        self.stop_button.setSizePolicy(keeps_room)
        layout = column(self, row(self._phase, self._time_left, self.stop_button, stretch=0), self._bar)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        if self.curve is not None and self._notice is not None:
            layout.addWidget(self.curve)
            layout.addWidget(self._notice)
        session.job_changed.connect(self._refresh)
        session.metric.connect(self._on_metric)
        self._refresh()

    @property
    def own(self) -> bool:
        """Whether the job, or the last one, is of this step's kind."""
        return self._session.job.kind in self._kinds

    def set_curves(self, loss: list[tuple[float, float]], dice: Sequence[tuple[float, float]] = ()) -> None:
        """Show the curves of an earlier job, as (step, value) points; ignored by a panel without curves."""
        if self.curve is not None:
            self.curve.set_points(loss, dice)

    def _refresh(self) -> None:
        job, own = self._session.job, self.own
        self.setVisible(own or bool(self.curve and self.curve.points))
        self.stop_button.setVisible(own and job.running)
        self.stop_button.setText(STOP_NOW if job.stopping else "Stop")
        if self._notice is not None:
            self._notice.setVisible(own and bool(job.notices))
            self._notice.setText(job.notices[-1] if own and job.notices else "")
            self._notice.setToolTip("\n".join(job.notices))
        if not own:
            self._phase.setText("Last training")
            return
        if job.running and job.run is None and self.curve is not None:
            self.curve.set_points([])
        self._phase.setText(job.phase.capitalize() if job.phase.islower() else job.phase)
        self._time_left.setText(time_left(job.eta_s) if job.running and not job.stopping else "")
        self._bar.set_fraction(job.fraction)
        self._phase.setToolTip("\n".join(job.plan))

    def _on_metric(self, metric: events.Metric) -> None:
        if self.curve is not None and self.own:
            self.curve.add(metric.step, metric.values)


def time_left(seconds: float | None) -> str:
    """Time left as text: "40 s left", "3 min left"; empty if unknown."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{max(1, round(seconds))} s left"
    if seconds < 5400:
        return f"{round(seconds / 60)} min left"
    return f"{seconds / 3600:.1f} h left"
