"""The button for surfaces in 3D, in step 5."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtWidgets import QFileDialog, QMenu, QPushButton

from napari_medssl.error_handling import catch_errors
from napari_medssl.model.reasons import no_scan
from napari_medssl.qt import not_none
from napari_medssl.reading.surfaces import Surfaces
from napari_medssl.widgets.components import allow

COMPUTING = "Surfaces are being computed; wait until they are shown."
TIP = "The surface of each class with its volume: your labels where you painted, the prediction elsewhere"


class SurfacesButton(QPushButton):
    """Opens a menu: show the surfaces, or save them as STL files."""

    def __init__(self, surfaces: Surfaces) -> None:
        super().__init__()
        self.surfaces, self.session = surfaces, surfaces.session
        self.setToolTip(TIP)
        menu = QMenu(self)
        self.show_action = not_none(menu.addAction(""))
        self.show_action.triggered.connect(self._on_show)
        self.save_action = not_none(menu.addAction("Save as STL…"))
        self.save_action.triggered.connect(self._on_save)
        self.setMenu(menu)
        for signal in (surfaces.changed, self.session.scan_changed, self.session.project_changed):
            signal.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Show what can be done now."""
        self.setText("Computing surfaces…" if self.surfaces.busy else "Surfaces")
        allow(self, COMPUTING if self.surfaces.busy else no_scan(self.session))
        self.show_action.setText("Back to slices" if self.surfaces.layers else "Show in 3D")

    def _on_show(self) -> None:
        action = self.surfaces.hide if self.surfaces.layers else self.surfaces.show
        catch_errors(self.session, action)

    def _on_save(self) -> None:
        scan = catch_errors(self.session, self.session.need_scan)
        if scan is None:
            return
        start = str(Path(scan.source).parent)
        folder = QFileDialog.getExistingDirectory(self, "Save the surfaces into a folder", start)
        if folder:
            catch_errors(self.session, lambda: self.surfaces.save(Path(folder)))
