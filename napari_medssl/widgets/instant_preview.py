"""The check box of the instant preview, with a message if something is missing."""

from __future__ import annotations

from qtpy.QtWidgets import QCheckBox, QWidget
from superqt import QElidingLabel

from napari_medssl.explore.instant_preview import InstantPreview
from napari_medssl.widgets.components import column, row

TIP = (
    "Outlines predicted from your strokes, updated while you paint (W). A quick classifier on features: not "
    "saved, and less accurate than fine-tuning (step 4)."
)


class InstantPreviewBox(QWidget):
    """A check box, and a message if the preview cannot be drawn."""

    def __init__(self, preview: InstantPreview) -> None:
        super().__init__()
        self.preview = preview
        self.box = QCheckBox("Instant preview")
        self.box.setToolTip(TIP)
        self.box.toggled.connect(preview.switch)
        self.status = QElidingLabel()  # beside the box: nothing below it moves
        self.status.setProperty("hint", True)
        column(self, row(self.box, self.status, stretch=1)).setContentsMargins(0, 0, 0, 0)
        preview.changed.connect(self._refresh)
        self._refresh()

    def toggle(self) -> None:
        """Turn the preview on or off."""
        self.box.toggle()

    def _refresh(self) -> None:
        self.box.setChecked(self.preview.on)
        self.status.setText(self.preview.missing)
        self.status.setToolTip(self.preview.missing)
        self.status.setVisible(bool(self.preview.missing))
