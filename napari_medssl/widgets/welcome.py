"""What the first step shows while no project is open: recent projects, and the sample project."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qtpy.QtWidgets import QWidget

from napari_medssl.io.samples import N_PAINTED, sample_project_place
from napari_medssl.model.recent_projects import RecentProjects
from napari_medssl.widgets.components import button, column, hint
from napari_medssl.widgets.recent_projects import RecentProjectList

MAKING_SAMPLE = "Computing two synthetic CTs…"
SAMPLE_STEPS = (
    f"Two synthetic CTs, nobody's data. In the first, {N_PAINTED} slices are painted; step 2 lists them. "
    "Next: Fine-tune and predict in step 4. Then click the second scan, and Segment this scan in step 5; the "
    "table shows its Dice."
)


class Welcome(QWidget):
    """Recent projects, if there are any, and a button for the sample project."""

    def __init__(
        self,
        recent: RecentProjects,
        open_project: Callable[[Path], object],
        open_sample: Callable[[], object],
    ) -> None:
        super().__init__()
        self._recent, self._heading = recent, hint("Recent projects")
        self.projects = RecentProjectList(recent, open_project)
        place = sample_project_place()
        self.sample = button("Sample project", open_sample, f"Two synthetic CTs, in {place}")
        note = hint(f"Two synthetic CTs with {N_PAINTED} painted slices, made in ~/{place.name}.")
        column(self, self._heading, self.projects, self.sample, note).setContentsMargins(0, 0, 0, 0)
        recent.changed.connect(self._refresh)
        self._refresh()

    def _refresh(self) -> None:
        for widget in (self._heading, self.projects):
            widget.setVisible(bool(self._recent.projects))
