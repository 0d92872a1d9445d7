"""Brings back what a viewer that was killed had not saved."""

from __future__ import annotations

import numpy as np
from medssl.core.project import stroke_log
from medssl.core.project.annotation import Annotation

from napari_medssl.annotate.edits import Edits
from napari_medssl.error_handling import guarded
from napari_medssl.workspace import Workspace


class Restore:
    """Strokes in a scan's journal go back into its layer, as one step that Ctrl+Z takes out again."""

    def __init__(self, workspace: Workspace, edits: Edits) -> None:
        self.workspace, self.session, self.edits = workspace, workspace.session, edits
        self.session.project_changed.connect(self._go_there)
        self.session.scan_changed.connect(lambda: guarded(self.session, self._bring_back))

    def _go_there(self) -> None:
        """A project opens with the scan that has such strokes."""
        project = self.session.need_project()
        left = [
            scan for scan in project.scans if stroke_log.length(stroke_log.journal_file(project.root, scan))
        ]
        if left and not project.read_only:
            project.view_state = {**project.view_state, "scan": left[0]}

    def _bring_back(self) -> None:
        project, scan = self.session.need_project(), self.session.need_scan()
        path = stroke_log.journal_file(project.root, scan.id)
        strokes = stroke_log.read(path)
        if not strokes or project.read_only:
            return
        if self.workspace.annotation_layer is None:
            self.workspace.new_annotation()
        saved = np.asarray(self.workspace.need_annotation().data)
        known = Annotation(saved, self.session.complete)
        now = stroke_log.apply(known, strokes)
        voxels = np.flatnonzero(now.labels != saved)
        if len(voxels) == 0 and now.complete == known.complete:
            stroke_log.drop(path, stroke_log.length(path))
            return
        self.edits.apply(voxels, now.labels.reshape(-1)[voxels], now.complete)
        number = sum(len(stroke.voxels) > 0 for stroke in strokes)
        said = "1 stroke" if number == 1 else f"{number} strokes"
        self.session.tell(
            "warning",
            f"Brought back on {scan.id}: {said} that had not been saved when the viewer ended; "
            "Ctrl+Z takes this out again.",
        )
