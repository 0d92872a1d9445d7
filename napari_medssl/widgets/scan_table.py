"""The project's scans as a table: one click shows a scan, a right click offers what else there is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from medssl.core.io.volume import READABLE
from medssl.core.labels.evaluate import reference_labels
from medssl.core.project.contents import Scan
from qtpy.QtCore import QPoint, QSize, Qt
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import QFileDialog, QHeaderView, QMenu, QTableWidget, QTableWidgetItem

from napari_medssl import layers
from napari_medssl.error_handling import guarded
from napari_medssl.latest_only_worker import Background
from napari_medssl.model.scan_summaries import Facts, Overview
from napari_medssl.workspace import Workspace

PICTURE, NAME, SLICES, PREDICTION, DICE = range(5)
HEADERS = {
    PICTURE: ("", "The middle slice"),
    NAME: ("Scan", "Name, voxels and spacing from head to foot, front to back, side to side"),
    SLICES: ("Slices", "Slices that are complete or have strokes"),
    PREDICTION: ("Pred.", "Whether a network has predicted the scan"),
    DICE: ("Dice", "How the newest prediction agrees with the reference labels, from 0 (not at all) to 1"),
}
WIDTHS = {PICTURE: 54, SLICES: 43, PREDICTION: 38, DICE: 48}
ROW, HEAD, ROWS = 58, 24, 5
THUMBNAIL = 46
ID = Qt.ItemDataRole.UserRole


class ScanTable(QTableWidget):
    """A row a scan. The row in accent colour is on the screen, or says that it is being opened."""

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(0, len(HEADERS))
        self.workspace, self.session = workspace, workspace.session
        self.overview = Overview(self.session)
        self._checking = Background(self.session)
        self._look()
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.customContextMenuRequested.connect(self._on_menu)
        self.itemSelectionChanged.connect(self._on_picked)
        self.overview.changed.connect(self._show_facts)
        workspace.opening.changed.connect(self._show_names)
        for signal in (self.session.project_changed, self.session.scans_changed, self.session.scan_changed):
            signal.connect(self.refresh)
        self.refresh()

    def _look(self) -> None:
        for column, (text, tip) in HEADERS.items():
            item = QTableWidgetItem(text)
            item.setToolTip(tip)
            self.setHorizontalHeaderItem(column, item)
        head = self.horizontalHeader()
        head.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        head.setSectionResizeMode(NAME, QHeaderView.ResizeMode.Stretch)
        head.setFixedHeight(HEAD)
        head.setHighlightSections(False)
        for column, width in WIDTHS.items():
            self.setColumnWidth(column, width)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(ROW)
        self.setIconSize(QSize(THUMBNAIL, THUMBNAIL))
        self.setShowGrid(False)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.setEditTriggers(self.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(self.SelectionBehavior.SelectRows)
        self.setSelectionMode(self.SelectionMode.SingleSelection)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollMode(self.ScrollMode.ScrollPerPixel)

    # --- going from scan to scan ---------------------------------------------------------------------

    def step(self, by: int) -> None:
        """Show the next scan (1) or the one before (-1), as far as there is one."""
        scans = list(self.session.project.scans) if self.session.project else []
        here = self.workspace.opening.waiting or self.session.scan
        place = scans.index(here) + by if here in scans else 0
        if 0 <= place < len(scans):
            self._open(scans[place])

    def _open(self, scan: str) -> None:
        guarded(self.session, lambda: self.workspace.opening.open(scan))

    def _on_picked(self) -> None:
        row = self.currentRow()
        scan = self.item(row, NAME).data(ID) if self.selectedItems() and row >= 0 else None
        if scan is not None and scan != (self.workspace.opening.waiting or self.session.scan):
            self._open(scan)

    # --- what it shows -------------------------------------------------------------------------------

    def refresh(self) -> None:
        """The rows are the project's scans."""
        scans = list(self.session.project.scans) if self.session.project else []
        if scans != [self.item(row, NAME).data(ID) for row in range(self.rowCount())]:
            self.blockSignals(True)
            self.setRowCount(len(scans))
            for row, scan in enumerate(scans):
                for column in HEADERS:
                    item = QTableWidgetItem()
                    item.setData(ID, scan)
                    if column != NAME:
                        item.setTextAlignment(Qt.AlignmentFlag.AlignCenter)
                    self.setItem(row, column, item)
                self._show_facts(scan)
            self.blockSignals(False)
            self.setFixedHeight(HEAD + ROW * min(max(len(scans), 1), ROWS) + 8)
        self._show_dice_column()
        self._show_names()

    def _show_names(self) -> None:
        waiting = self.workspace.opening.waiting
        shown = waiting or self.session.scan
        self.blockSignals(True)
        for row in range(self.rowCount()):
            item = self.item(row, NAME)
            scan = self.session.need_project().scans.get(item.data(ID))
            if scan is None:
                continue  # another project has come, and its rows have not yet
            spacing = " × ".join(f"{value:.3g}" for value in scan.geometry.spacing_mm) + " mm"
            size = layers.times(scan.geometry.shape_zyx)
            short = "×".join(f"{value:.2g}" for value in scan.geometry.spacing_mm) + " mm"
            last = "Opening…" if scan.id == waiting else "Held out" if scan.held_out else short
            item.setText(f"{scan.id}\n{size}\n{last}")
            item.setToolTip(
                f"{scan.id}\n{size} voxels of {spacing}, {scan.modality.upper()}\n{scan.source}\n"
                "Page Up and Page Down go from scan to scan"
            )
            if scan.id == shown and self.currentRow() != row:
                self.selectRow(row)
        self.blockSignals(False)
        self.viewport().update()

    def _show_facts(self, scan: str) -> None:
        facts = self.overview.facts.get(scan)
        row = next((row for row in range(self.rowCount()) if self._id(row) == scan), None)
        if facts is None or row is None:
            return
        self.item(row, PICTURE).setData(Qt.ItemDataRole.DecorationRole, _pixmap(facts))
        self.item(row, SLICES).setText(str(facts.slices or ""))
        self.item(row, PREDICTION).setText("✓" if facts.run else "")
        known = not math.isnan(facts.mean_dice)
        self.item(row, DICE).setText(f"{facts.mean_dice:.2f}" if known else "?" if facts.trouble else "")
        self.item(row, DICE).setToolTip(facts.trouble or _dice_words(facts))

    def _show_dice_column(self) -> None:
        scans = self.session.project.scans.values() if self.session.project else ()
        self.setColumnHidden(DICE, not any(scan.reference for scan in scans))

    def _id(self, row: int) -> str | None:
        item = self.item(row, NAME)
        return item.data(ID) if item is not None else None

    # --- what else can be done with a scan -----------------------------------------------------------

    def _on_menu(self, place: QPoint) -> None:
        item = self.itemAt(place)
        if item is not None:
            self.menu(item.data(ID)).popup(self.viewport().mapToGlobal(place))

    def menu(self, scan_id: str) -> QMenu:
        """What a right click on a scan offers."""
        scan, menu = self.session.need_project().scans[scan_id], QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.setToolTipsVisible(True)
        menu.addAction("Compare with reference labels…", lambda: self.choose_reference(scan))
        if scan.reference:
            name = Path(scan.reference).name
            menu.addAction(f"Stop comparing with {name}", lambda: self._refer(scan, None))
        text = "Let it take part in training again" if scan.held_out else "Hold out: never train on it"
        menu.addAction(text, lambda: self._hold_out(scan))
        for action in menu.actions():
            action.setEnabled(not self.session.read_only)
        return menu

    def choose_reference(self, scan: Scan) -> None:
        """Ask for a label file; it is taken if it lies on the scan's grid."""
        patterns = " ".join(f"*{suffix}" for suffix in READABLE)
        start = str(Path(scan.reference or scan.source).parent)
        path, _ = QFileDialog.getOpenFileName(
            self, f"Reference labels of {scan.id}", start, f"Labels ({patterns});;All files (*)"
        )
        if path:
            self.compare(scan, Path(path))

    def compare(self, scan: Scan, path: Path) -> None:
        """Compare a scan's predictions with a label file from now on."""
        self._checking.ask(lambda: _checked(scan, path), lambda found: self._refer(scan, found))

    def _refer(self, scan: Scan, path: Path | None) -> None:
        guarded(self.session, lambda: self.session.need_project().set_reference(scan.id, path))
        self.session.scans_changed.emit()

    def _hold_out(self, scan: Scan) -> None:
        guarded(self.session, lambda: self.session.need_project().hold_out(scan.id, not scan.held_out))
        self.session.count_annotated()
        self.session.scans_changed.emit()


def _checked(scan: Scan, path: Path) -> Iterator[Path]:
    """In a thread: the label file, if it lies on the scan's grid."""
    reference_labels(scan, path)
    yield path


def _pixmap(facts: Facts) -> QPixmap:
    rows, columns = facts.picture.shape
    image = QImage(facts.picture.tobytes(), columns, rows, columns, QImage.Format.Format_Grayscale8)
    keep, smooth = Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
    return QPixmap.fromImage(image.scaled(THUMBNAIL, THUMBNAIL, keep, smooth))


def _dice_words(facts: Facts) -> str:
    said = {name: "in neither" if math.isnan(dice) else f"{dice:.3f}" for name, dice in facts.dice.items()}
    return "\n".join(f"{name}: {words}" for name, words in said.items())
