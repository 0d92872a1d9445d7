"""The message of the live preview."""

from __future__ import annotations

from qtpy.QtWidgets import QLabel

from napari_medssl.predict.live_preview import LivePreview
from napari_medssl.widgets.components import hint


def live_preview_label(live: LivePreview) -> QLabel:
    """A label with the message of the live preview; hidden if there is none."""
    label = hint()

    def refresh() -> None:
        label.setText(live.status)
        label.setVisible(bool(live.status))

    live.changed.connect(refresh)
    refresh()
    return label
