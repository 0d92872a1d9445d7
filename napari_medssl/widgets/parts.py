"""Small widgets that several steps use."""

from __future__ import annotations

from collections.abc import Callable

from medssl.core import events
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QHBoxLayout,
    QLabel,
    QLayout,
    QPushButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from napari_medssl.model.session import Session
from napari_medssl.widgets.drawing import Bar, Curve

STOP_TIP = "End after the running step and keep the weights so far; a second press ends at once"
NO_LIMIT = 16_777_215
"""Qt's own maximum of a widget's height."""


def button(text: str, action: Callable[[], object], tip: str, primary: bool = False) -> QPushButton:
    """A push button that calls `action` without arguments."""
    made = QPushButton(text)
    made.setToolTip(tip)
    made.setProperty("primary", primary)
    made.clicked.connect(lambda: action())
    return made


def set_primary(button: QPushButton, primary: bool) -> None:
    """Make a button the one to press next, or one among others."""
    button.setProperty("primary", primary)
    button.style().unpolish(button)
    button.style().polish(button)


def hint(text: str = "") -> QLabel:
    """A line or two in second-rank colour."""
    label = QLabel(text)
    label.setWordWrap(True)
    label.setProperty("hint", True)
    return label


def row(*items: QWidget, stretch: int | None = None) -> QHBoxLayout:
    """Widgets side by side; the one at `stretch` takes the room that is left."""
    layout = QHBoxLayout()
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(6)
    for position, item in enumerate(items):
        layout.addWidget(item, 1 if stretch in (None, position) else 0)
    return layout


def column(widget: QWidget, *items: QWidget | QLayout) -> QVBoxLayout:
    """Lay a step's rows out below each other."""
    layout = QVBoxLayout(widget)
    layout.setContentsMargins(4, 8, 4, 10)
    layout.setSpacing(8)
    for item in items:
        if isinstance(item, QLayout):
            layout.addLayout(item)
        else:
            layout.addWidget(item)
    return layout


def choice() -> QComboBox:
    """A box to choose from that never widens the dock: long texts are cut off, and whole in the list."""
    box = QComboBox()
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(10)
    return box


def minutes_box(value: float) -> QDoubleSpinBox:
    """How long to train, in minutes."""
    box = QDoubleSpinBox()
    box.setRange(0.1, 6000)
    box.setDecimals(1)
    box.setSuffix(" min")
    box.setAlignment(Qt.AlignmentFlag.AlignCenter)
    box.setValue(value)
    box.editingFinished.connect(box.lineEdit().deselect)
    box.setToolTip("How long to train; more scans and harder tasks want more")
    return box


class Step(QCollapsible):
    """One of the dock's steps: a header with a number, a title and a summary, and its content."""

    def __init__(self, number: int, title: str, content: QWidget) -> None:
        super().__init__(f"{number}   {title}")
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
        layout = self.layout()
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        self.content().setParent(None)
        content.setMaximumHeight(0)
        self.setContent(content)
        self.setDuration(0)
        self.toggled.connect(self._grow)

    def set_summary(self, text: str) -> None:
        """What the header says on its right: how far this step is."""
        self._summary.setText(text)

    def redraw_icons(self) -> None:
        """Draw the header's arrow in the colour that the theme gives its text."""
        self.toggleButton().ensurePolished()
        self.setExpandedIcon("▾")
        self.setCollapsedIcon("▸")

    def _grow(self, expanded: bool) -> None:
        """Let the content be as high as it wants: wrapped text changes its height with the width."""
        self.content().setMaximumHeight(NO_LIMIT if expanded else 0)


class JobPanel(QWidget):
    """Progress of the session's job while it is of this step's kind: phase, time left, curve, stop."""

    def __init__(self, session: Session, kind: str, stop: Callable[[], object], curve: bool = True) -> None:
        super().__init__()
        self._session, self._kind = session, kind
        self._phase, self._left = QLabel(), hint()
        self._left.setWordWrap(False)
        self._left.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self._bar = Bar()
        self._text = hint()
        self.curve = Curve() if curve else None
        self.stop_button = button("Stop", stop, STOP_TIP)
        layout = column(self, row(self._phase, self._left), self._bar)
        layout.setContentsMargins(0, 0, 0, 0)
        if self.curve is not None:
            layout.addWidget(self.curve)
        layout.addWidget(self._text)
        layout.addWidget(self.stop_button)
        session.job_changed.connect(self._refresh)
        session.metric.connect(self._on_metric)
        self._refresh()

    def _refresh(self) -> None:
        job = self._session.job
        mine = job.kind == self._kind
        self.setVisible(mine or bool(self.curve and self.curve.points))
        self.stop_button.setVisible(mine and job.running)
        self.stop_button.setText("Stop now" if job.stopping else "Stop")
        self._text.setVisible(mine and bool(job.said))
        if not mine:
            return
        if job.running and job.run is None and self.curve is not None:
            self.curve.set_points([])
        self._phase.setText(job.phase.capitalize() if job.phase.islower() else job.phase)
        self._left.setText(time_left(job.eta_s) if job.running and not job.stopping else "")
        self._bar.set_fraction(job.fraction)
        self._text.setText(job.said[-1] if job.said else "")
        self._text.setToolTip("\n".join(job.said))
        self._phase.setToolTip("\n".join(job.plan))

    def _on_metric(self, metric: events.Metric) -> None:
        if self.curve is not None and self._session.job.kind == self._kind:
            self.curve.add(metric.step, metric.values)


def time_left(seconds: float | None) -> str:
    """Seconds in words: "40 s left", "3 min left"; nothing while they are not known."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{max(1, round(seconds))} s left"
    if seconds < 5400:
        return f"{round(seconds / 60)} min left"
    return f"{seconds / 3600:.1f} h left"
