"""The scans of the project as a table: a click shows a scan, a right click opens a menu."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from medssl.core.io.geometry import size_text
from medssl.core.io.volume import READABLE
from medssl.core.labels.evaluate import reference_labels
from medssl.core.project.channels import describe_channels
from medssl.core.project.contents import Scan
from medssl.core.project.modality import describe_modality, modality_name
from qtpy.QtCore import QPoint, QSize, Qt
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import QFileDialog, QMenu, QTableWidgetItem

from napari_medssl.error_handling import catch_errors
from napari_medssl.latest_only_worker import LatestOnlyWorker
from napari_medssl.model.reasons import job_blocked
from napari_medssl.model.scan_summaries import ScanSummaries, ScanSummary
from napari_medssl.qt import HEADER_HEIGHT, Table, cell, not_none
from napari_medssl.widgets.components import allow
from napari_medssl.widgets.scan_channels import ScanChannels
from napari_medssl.widgets.scan_modality import ScanModality
from napari_medssl.widgets.scan_removal import ScanRemoval
from napari_medssl.workspace import Workspace

THUMBNAIL, NAME, MODALITY, SLICES, PREDICTION, DICE = range(6)
HEADERS = {
    THUMBNAIL: ("", "The middle slice"),
    NAME: ("Scan", "Name, voxels and spacing as x × y × z (left-right, front-back, feet-head)"),
    MODALITY: ("Mod.", "Modality, which decides how grey values are normalised; right-click to change it"),
    SLICES: ("Slices", "Number of annotated slices, complete or with strokes"),
    PREDICTION: ("Pred.", "Whether the scan has been segmented"),
    DICE: ("Dice", "Dice of the newest prediction against the reference labels, from 0 to 1"),
}
WIDTHS = {THUMBNAIL: 52, MODALITY: 36, SLICES: 43, PREDICTION: 36, DICE: 42}
ROW, ROWS = 58, 5
THUMBNAIL_SIZE = 46
ID = Qt.ItemDataRole.UserRole
GO_FROM_SCAN_TO_SCAN = "Page Up and Page Down go from scan to scan"


class ScanTable(Table):
    """One row per scan. The selected row is the scan on the screen, or the one that is being opened."""

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(HEADERS.values(), ROW, NAME)
        self.workspace, self.session = workspace, workspace.session
        self.summaries = ScanSummaries(self.session)
        self.removal = ScanRemoval(workspace, self)
        self.channels, self.modality = ScanChannels(self.session, self), ScanModality(self.session)
        self._worker = LatestOnlyWorker(self.session)
        for column, width in WIDTHS.items():
            self.setColumnWidth(column, width)
        self.setIconSize(QSize(THUMBNAIL_SIZE, THUMBNAIL_SIZE))
        self.setWordWrap(False)  # a long line must not push the next one out of the row
        self.setVerticalScrollMode(self.ScrollMode.ScrollPerPixel)
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.customContextMenuRequested.connect(self._on_menu)
        self.itemSelectionChanged.connect(self._on_picked)
        self.summaries.changed.connect(self._show_summary)
        workspace.scan_loader.changed.connect(self._show_names)
        for signal in (self.session.project_changed, self.session.scans_changed, self.session.scan_changed):
            signal.connect(self.refresh)
        self._rows: dict[str, int] = {}
        """Row of each scan."""
        self._drawn: dict[str, tuple[Scan, bool]] = {}
        """By id, what a row shows: the scan, and whether it is being opened."""
        self.refresh()

    # --- going from scan to scan ---------------------------------------------------------------------

    def step(self, by: int) -> None:
        """Show the next scan (1) or the previous one (-1), if there is one."""
        scans = list(self.session.project.scans) if self.session.project else []
        here = self.workspace.scan_loader.pending or self.session.scan
        position = scans.index(here) + by if here in scans else 0
        if 0 <= position < len(scans):
            self._open(scans[position])

    def _open(self, scan: str) -> None:
        catch_errors(self.session, lambda: self.workspace.scan_loader.open(scan))

    def _on_picked(self) -> None:
        row = self.currentRow()
        scan = cell(self, row, NAME).data(ID) if self.selectedItems() and row >= 0 else None
        if scan is not None and scan != (self.workspace.scan_loader.pending or self.session.scan):
            self._open(scan)

    # --- what it shows -------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Show the project's scans."""
        scans = list(self.session.project.scans) if self.session.project else []
        known = list(self._rows)
        if scans != known:
            # While a folder is read, rows are added.
            first = len(known) if scans[: len(known)] == known else 0
            if not first:
                self._drawn.clear()
            self._rows = {scan: row for row, scan in enumerate(scans)}
            self.blockSignals(True)
            self.setRowCount(len(scans))
            for row, scan in enumerate(scans[first:], first):
                for column in HEADERS:
                    item = QTableWidgetItem()
                    item.setData(ID, scan)
                    if column != NAME:
                        item.setTextAlignment(Qt.AlignmentFlag.AlignCenter)
                    self.setItem(row, column, item)
                self._show_summary(scan)
            self.blockSignals(False)
            self.setFixedHeight(HEADER_HEIGHT + ROW * min(max(len(scans), 1), ROWS) + 8)
        self._show_dice_column()
        self._show_names()

    def _show_names(self) -> None:
        pending = self.workspace.scan_loader.pending
        shown = pending or self.session.scan
        self.blockSignals(True)
        for scan_id, row in self._rows.items():
            scan = self.session.need_project().scans.get(scan_id)
            if scan is None:
                continue  # rows of the previous project
            if scan.id == shown and self.currentRow() != row:
                self.selectRow(row)
            if self._drawn.get(scan.id) == (scan, scan.id == pending):
                continue  # of hundreds of rows, few change
            self._drawn[scan.id] = (scan, scan.id == pending)
            spacing = " × ".join(f"{value:.3g}" for value in scan.geometry.spacing_mm[::-1]) + " mm"
            size = size_text(scan.geometry.shape_zyx)
            short = "×".join(f"{value:.2g}" for value in scan.geometry.spacing_mm[::-1]) + " mm"
            if scan.channels:
                short = describe_channels(scan)
            names = dict.fromkeys((scan.title, scan.id))
            third_line = "Opening…" if scan.id == pending else "Held out" if scan.held_out else short
            item = cell(self, row, NAME)
            item.setText(f"{scan.title}\n{size.replace(' ', '')}\n{third_line}")
            item.setToolTip(
                "\n".join((*names, f"{size} voxels of {spacing}", *_sources(scan), GO_FROM_SCAN_TO_SCAN))
            )
            cell(self, row, MODALITY).setText(modality_name(scan))
            cell(self, row, MODALITY).setToolTip(f"{_modalities(scan)}; right-click to change it")
        self.blockSignals(False)
        not_none(self.viewport()).update()

    def _show_summary(self, scan: str) -> None:
        summary, row = self.summaries.by_scan.get(scan), self._rows.get(scan)
        if summary is None or row is None:
            return
        cell(self, row, THUMBNAIL).setData(Qt.ItemDataRole.DecorationRole, _pixmap(summary))
        cell(self, row, SLICES).setText(str(summary.slices or ""))
        cell(self, row, PREDICTION).setText("✓" if summary.run else "")
        known = not math.isnan(summary.mean_dice)
        cell(self, row, DICE).setText(
            f"{summary.mean_dice:.2f}" if known else "?" if summary.dice_error else ""
        )
        cell(self, row, DICE).setToolTip(summary.dice_error or _dice_tip(summary))

    def _show_dice_column(self) -> None:
        scans = self.session.project.scans.values() if self.session.project else ()
        self.setColumnHidden(DICE, not any(scan.reference for scan in scans))

    # --- what else can be done with a scan -----------------------------------------------------------

    def _on_menu(self, point: QPoint) -> None:
        item = self.itemAt(point)
        if item is not None:
            self.menu(item.data(ID)).popup(not_none(self.viewport()).mapToGlobal(point))

    def menu(self, scan_id: str) -> QMenu:
        """The context menu of a scan."""
        scan, menu = self.session.need_project().scans[scan_id], QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.setToolTipsVisible(True)
        menu.addAction("Compare with reference labels…", lambda: self.choose_reference(scan))
        if scan.reference:
            name = Path(scan.reference).name
            menu.addAction(f"Stop comparing with {name}", lambda: self._set_reference(scan, None))
        text = "Include in training again" if scan.held_out else "Hold out from training"
        menu.addAction(text, lambda: self._hold_out(scan))
        for action in menu.actions():
            allow(action, self.session.read_only)
        self.modality.add_to(menu, scan)
        self.channels.add_to(menu, scan)
        menu.addSeparator()
        rename = not_none(menu.addAction("Rename scan…", lambda: self.removal.ask_name(scan)))
        remove = not_none(menu.addAction("Remove scan…", lambda: self.removal.ask(scan)))
        allow(rename, self.session.read_only)
        allow(remove, job_blocked(self.session))
        return menu

    def choose_reference(self, scan: Scan) -> None:
        """Ask for a file of reference labels on the scan's grid."""
        patterns = " ".join(f"*{suffix}" for suffix in READABLE)
        start = str(Path(scan.reference or scan.source).parent)
        path, _ = QFileDialog.getOpenFileName(
            self, f"Reference labels of {scan.title}", start, f"Labels ({patterns});;All files (*)"
        )
        if path:
            self.compare(scan, Path(path))

    def compare(self, scan: Scan, path: Path) -> None:
        """Use a label file as reference of a scan: its Dice is shown from now on."""
        self._worker.submit(lambda: _checked(scan, path), lambda checked: self._set_reference(scan, checked))

    def _set_reference(self, scan: Scan, path: Path | None) -> None:
        catch_errors(self.session, lambda: self.session.need_project().set_reference(scan.id, path))
        self.session.scans_changed.emit()

    def _hold_out(self, scan: Scan) -> None:
        catch_errors(self.session, lambda: self.session.need_project().hold_out(scan.id, not scan.held_out))
        self.session.refresh_annotated()
        self.session.scans_changed.emit()


def _sources(scan: Scan) -> Iterator[str]:
    """File and notes of each channel."""
    for part in scan.parts:
        yield from (part.source, *part.notes)


def _modalities(scan: Scan) -> str:
    """Modality of each channel, the first one's first."""
    further = (f"\n{part.channel}: {describe_modality(part)}" for part in scan.parts[1:])
    return describe_modality(scan) + "".join(further)


def _checked(scan: Scan, path: Path) -> Iterator[Path]:
    """Runs in a thread: the label file, if it is on the grid of the scan."""
    reference_labels(scan, path)
    yield path


def _pixmap(summary: ScanSummary) -> QPixmap:
    rows, columns = summary.picture.shape
    image = QImage(summary.picture.tobytes(), columns, rows, columns, QImage.Format.Format_Grayscale8)
    keep, smooth = Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
    return QPixmap.fromImage(image.scaled(THUMBNAIL_SIZE, THUMBNAIL_SIZE, keep, smooth))


def _dice_tip(summary: ScanSummary) -> str:
    lines = {
        name: "absent in both" if math.isnan(dice) else f"{dice:.3f}" for name, dice in summary.dice.items()
    }
    return "\n".join(f"{name}: {text}" for name, text in lines.items())
