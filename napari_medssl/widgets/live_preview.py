"""The line that says that what is on the screen is still in the making."""

from __future__ import annotations

from qtpy.QtWidgets import QLabel

from napari_medssl.predict.live_preview import LivePreview
from napari_medssl.widgets.parts import hint


def live_words(live: LivePreview) -> QLabel:
    """Hidden while there is nothing to say."""
    label = hint()

    def refresh() -> None:
        label.setText(live.words)
        label.setVisible(bool(live.words))

    live.changed.connect(refresh)
    refresh()
    return label
