"""The check box of the instant preview, and what it waits for."""

from __future__ import annotations

from qtpy.QtWidgets import QCheckBox, QWidget

from napari_medssl.explore.instant_preview import InstantPreview
from napari_medssl.widgets.parts import column, hint

TIP = (
    "Outlines of what your strokes say about this slice, at once (W). "
    "A rough guess from features: nothing of it is saved; fine-tuning (step 4) does it well."
)


class PreviewBox(QWidget):
    """On, off, and one sentence about what is missing."""

    def __init__(self, preview: InstantPreview) -> None:
        super().__init__()
        self.preview = preview
        self.box = QCheckBox("Instant preview")
        self.box.setToolTip(TIP)
        self.box.toggled.connect(preview.switch)
        self.words = hint()
        layout = column(self, self.box, self.words)
        layout.setContentsMargins(0, 0, 0, 0)
        preview.changed.connect(self._refresh)
        self._refresh()

    def toggle(self) -> None:
        """What the key does."""
        self.box.toggle()

    def _refresh(self) -> None:
        self.box.setChecked(self.preview.on)
        self.words.setText(self.preview.missing)
        self.words.setVisible(bool(self.preview.missing))
