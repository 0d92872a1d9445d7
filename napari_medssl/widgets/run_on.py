"""The choice of the computer that trainings and predictions run on, where there is one to choose."""

from __future__ import annotations

from qtpy.QtWidgets import QComboBox, QFormLayout

from napari_medssl.model.run_host import RunHost
from napari_medssl.widgets.components import combo_box

HERE = "This computer"
TIP = (
    "Where trainings and predictions run: here, or on a host of your ssh configuration\n"
    "that has the same version of napari-medssl. Normalised scans and annotations go there."
)


def add_run_on(form: QFormLayout, host: RunHost) -> QComboBox:
    """Add a row to a form; without hosts, the box stays outside of it.

    Args:
        form: The form.
        host: The choice that the box shows and changes.
    """
    box = combo_box()
    box.setToolTip(TIP)
    box.addItem(HERE, "")
    for name in host.hosts:
        box.addItem(name, name)

    def show() -> None:
        box.setCurrentIndex(max(0, box.findData(host.chosen)))

    show()
    host.changed.connect(show)
    box.currentIndexChanged.connect(lambda index: host.choose(box.currentData()))
    if host.hosts:
        form.addRow("Run on", box)
    return box
