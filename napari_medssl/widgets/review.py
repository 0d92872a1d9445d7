"""The review queue: segment all scans, then go through the predictions, the worst first."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from medssl.core.project.review import Reviewable
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QMenu, QTableWidgetItem, QWidget

from napari_medssl.annotate.edits import Edits
from napari_medssl.engine.job_runner import JobRunner
from napari_medssl.error_handling import catch_errors
from napari_medssl.model.reasons import job_blocked
from napari_medssl.model.review_list import NOT_QUEUED, ReviewList
from napari_medssl.qt import HEADER_HEIGHT, Table, not_none
from napari_medssl.widgets.components import allow, button, column, hint, row
from napari_medssl.workspace import Workspace

SCAN, QUALITY, REVIEWED = range(3)
HEADERS = {
    SCAN: ("Scan", "Click a scan to show it; right-click it for more"),
    QUALITY: (
        "Expected",
        "The Dice that the network expects, the mean of the classes, from 0 to 1: it puts the scans into an "
        "order, and is no measurement",
    ),
    REVIEWED: ("Reviewed", "Accepted scans are marked in the table of an export"),
}
ID = Qt.ItemDataRole.UserRole
ROW, ROWS = 26, 4
NO_OTHER = "There is no other scan to review."
ALL_SEGMENTED = "The newest fine-tuning has segmented all scans."
NOT_SHOWN = "This scan is not on the screen; click its row first."


class Review(QWidget):
    """The queue and the buttons through it, and one that segments all scans, which the step lays out."""

    def __init__(
        self,
        workspace: Workspace,
        jobs: JobRunner,
        edits: Edits,
        settings: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        """Build the widgets.

        Args:
            workspace: Shows the scans.
            jobs: Segments all scans.
            edits: Copy a prediction into the annotation.
            settings: The changed values of the step's form.
        """
        super().__init__()
        self.workspace, self.session, self.jobs, self.edits = workspace, workspace.session, jobs, edits
        self._settings = settings
        self.queue = ReviewList(self.session)
        self.segment_all = button(
            "Segment all scans",
            self.segment_missing,
            "Segment every scan that the newest fine-tuning has not segmented yet",
        )
        self.state = hint()
        self.table = Table(HEADERS.values(), ROW, SCAN)
        self.table.itemSelectionChanged.connect(self._on_picked)
        self.table.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.table.customContextMenuRequested.connect(self._on_menu)
        self.accept_button = button(
            "Accept scan",
            self.accept,
            "Mark this prediction as accepted and show the next scan (Shift+U); no training learns from it",
        )
        self.next_button = button("Next to review", self.show_next, "Show the next scan of the queue (N)")
        buttons = row(self.accept_button, self.next_button)
        column(self, buttons, self.state, self.table).setContentsMargins(0, 0, 0, 0)
        for signal in (self.queue.changed, self.session.classes_changed):
            signal.connect(self._fill)
        self.queue.changed.connect(lambda: self.session.messages.end(NO_OTHER, "nothing-yet"))
        for signal in (self.queue.changed, self.session.scan_changed, self.session.job_changed,
                       self.session.lock_changed):  # fmt: skip
            signal.connect(self.refresh)
        self.refresh()

    # --- what the buttons do -------------------------------------------------------------------------

    def segment_missing(self) -> None:
        """Segment the scans without a prediction, as a job of the engine."""
        catch_errors(
            self.session, lambda: self.jobs.start(replace(self.queue.missing_job(), **self._settings()))
        )

    def show_next(self) -> None:
        """Show the next scan of the queue."""
        following = self.queue.following(self.workspace.scan_loader.pending or self.session.scan)
        if following is None:
            self.session.notify("warning", NO_OTHER)
        else:
            catch_errors(self.session, lambda: self.workspace.scan_loader.open(following))

    def accept(self) -> None:
        """Accept the prediction of the scan on the screen and show the next one."""

        def accept_and_go() -> None:
            scan = self.session.need_scan().id
            following = self.queue.following(scan)
            self.queue.accept(scan)
            if following is not None:
                self.workspace.scan_loader.open(following)

        catch_errors(self.session, accept_and_go)

    def copy(self) -> None:
        """Copy the whole prediction on the screen into the annotation, all slices complete, and accept it."""

        def copy_and_accept() -> None:
            self.edits.accept_scan()
            self.queue.accept(self.session.need_scan().id)
            self.session.notify(
                "info", "All slices are complete now, and fine-tuning learns from them; Ctrl+Z takes it back."
            )

        catch_errors(self.session, copy_and_accept)

    def menu(self, scan: str) -> QMenu:
        """The context menu of a scan in the queue."""
        menu, item = QMenu(self), self.queue.item(scan)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        accepted = item is not None and item.accepted
        menu.addAction(
            "Review again" if accepted else "Accept",
            lambda: catch_errors(self.session, lambda: self.queue.accept(scan, not accepted)),
        )
        copy = not_none(menu.addAction("Accept as annotation, to learn from", self.copy))
        for action in menu.actions():
            allow(action, self.session.read_only)
        allow(copy, self.session.read_only or ("" if scan == self.session.scan else NOT_SHOWN))
        menu.setToolTipsVisible(True)
        return menu

    def _on_menu(self, point: QPoint) -> None:
        item = self.table.itemAt(point)
        if item is not None:
            scan = item.data(ID)
            self.menu(scan).popup(not_none(self.table.viewport()).mapToGlobal(point))

    def _on_picked(self) -> None:
        item = self.table.item(self.table.currentRow(), SCAN)
        scan = item.data(ID) if item is not None else None
        if scan is not None and scan != (self.workspace.scan_loader.pending or self.session.scan):
            catch_errors(self.session, lambda: self.workspace.scan_loader.open(scan))

    # --- what it shows -------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Show what can be done now, and which scan is on the screen."""
        queue, project = self.queue, self.session.project
        count = len(project.scans) if project else 0
        # Grey or empty, they keep their places while scans are segmented.
        allow(self.segment_all, job_blocked(self.session) or ("" if queue.missing else ALL_SEGMENTED))
        self.setVisible(bool(self.session.runs("finetune")) and count > 1)
        self.table.setFixedHeight(HEADER_HEIGHT + ROW * min(max(count, 1), ROWS) + 8)
        accepted = sum(item.accepted for item in queue.items)
        self.state.setText(f"{accepted} of {len(queue.items)} accepted, the worst of the others first:")
        queued = queue.item(self.session.scan) is not None
        allow(self.accept_button, self.session.read_only or ("" if queued else NOT_QUEUED))
        scans = [item.scan for item in queue.items]
        self.table.blockSignals(True)
        self.table.clearSelection()
        if self.session.scan in scans:
            self.table.selectRow(scans.index(self.session.scan))
        self.table.blockSignals(False)

    @property
    def progress(self) -> str:
        """How many of several scans are not segmented, as a sentence; empty for none."""
        missing, project = self.queue.missing, self.session.project
        count = len(project.scans) if project else 0
        return f"{missing} of {count} scans have to be segmented." if missing and count > 1 else ""

    def _fill(self) -> None:
        """Show the queue."""
        items = self.queue.items
        titles = self._titles()
        self.table.blockSignals(True)
        self.table.setRowCount(len(items))
        for number, item in enumerate(items):
            for position, text in enumerate(_texts(item, titles.get(item.scan, item.scan))):
                entry = QTableWidgetItem(text)
                entry.setData(ID, item.scan)
                entry.setToolTip(self._tip(item))
                if position != SCAN:
                    entry.setTextAlignment(Qt.AlignmentFlag.AlignCenter)
                self.table.setItem(number, position, entry)
        for position in (QUALITY, REVIEWED):
            self.table.resizeColumnToContents(position)
        self.table.blockSignals(False)

    def _titles(self) -> dict[str, str]:
        return self.session.project.titles if self.session.project else {}

    def _tip(self, item: Reviewable) -> str:
        classes = self.session.project.classes if self.session.project else ()
        values = ((each.name, item.expected_dice.get(each.id)) for each in classes)
        lines = [f"{name}: {'not found' if value == 0 else f'{value:.2f}'}" for name, value in values
                 if value is not None]  # fmt: skip
        return "\n".join([self._titles().get(item.scan, item.scan), *lines])


def _texts(item: Reviewable, title: str) -> tuple[str, str, str]:
    known = not math.isnan(item.quality)
    return title, f"{item.quality:.2f}" if known else "?", "✓" if item.accepted else ""
