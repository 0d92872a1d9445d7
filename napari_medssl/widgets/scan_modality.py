"""The menu of a scan's modality, and of those of its further channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from medssl.core.io.intensity import MODALITIES
from medssl.core.project.modality import UNSURE, set_modality
from medssl.core.project.project import Scan
from qtpy.QtWidgets import QMenu

from napari_medssl.latest_only_worker import LatestOnlyWorker
from napari_medssl.model.reasons import job_blocked
from napari_medssl.model.session import Session
from napari_medssl.qt import not_none
from napari_medssl.widgets.components import allow


class ScanModality:
    """Takes images as another modality; they are read and normalised again in a thread."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._worker = LatestOnlyWorker(session)

    def add_to(self, menu: QMenu, scan: Scan) -> None:
        """Add the modalities of each channel to the menu of a scan, and those of all uncertain scans."""
        for part in scan.parts:
            title = f"Modality of {part.channel}" if part is not scan else "Modality"
            submenu = not_none(menu.addMenu(title))
            allow(not_none(submenu.menuAction()), job_blocked(self.session))
            channel = "" if part is scan else part.channel
            for modality, name in MODALITIES.items():
                action = not_none(submenu.addAction(name, partial(self.set, [scan.id], modality, channel)))
                action.setCheckable(True)
                action.setChecked(modality == part.modality)
            if part is scan:
                self._add_for_all(submenu)

    def _add_for_all(self, submenu: QMenu) -> None:
        scans = self.session.need_project().scans.values()
        uncertain = [scan.id for scan in scans if scan.modality_source == UNSURE]
        if len(uncertain) > 1:
            submenu.addSeparator()
            for modality in ("ct", "mr"):
                text = f"{MODALITIES[modality]} for all {len(uncertain)} uncertain scans"
                submenu.addAction(text, partial(self.set, uncertain, modality))

    def set(self, scan_ids: Sequence[str], modality: str, channel: str = "") -> None:
        """Take scans, or one channel of them, as another modality."""
        project = self.session.need_project()

        def change() -> Iterator[str]:
            for scan_id in scan_ids:
                set_modality(project, scan_id, modality, channel=channel)
                yield scan_id

        self._worker.submit(change, lambda _: self._on_set())

    def _on_set(self) -> None:
        self.session.messages.end(UNSURE)
        self.session.scans_changed.emit()
