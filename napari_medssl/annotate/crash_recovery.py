"""Recovers the strokes that were not saved when a viewer was killed."""

from __future__ import annotations

from napari_medssl.annotate.edits import Edits
from napari_medssl.error_handling import catch_errors
from napari_medssl.model.annotation_model import scans_with_journal
from napari_medssl.workspace import Workspace


class CrashRecovery:
    """Applies the strokes in a scan's journal to its layer, as one step that Ctrl+Z undoes."""

    def __init__(self, workspace: Workspace, edits: Edits) -> None:
        self.workspace, self.session, self.edits = workspace, workspace.session, edits
        self.session.project_changed.connect(self._choose_scan)
        self.session.scan_changed.connect(lambda: catch_errors(self.session, self._recover))

    def _choose_scan(self) -> None:
        """A project opens with the scan that has such strokes."""
        project = self.session.need_project()
        scans = scans_with_journal(project)
        if scans and not project.read_only:
            project.view_state = {**project.view_state, "scan": scans[0]}

    def _recover(self) -> None:
        recovered = self.session.annotation.recover()
        if recovered is None:
            return
        if self.workspace.annotation_layer is None:
            self.workspace.new_annotation()
        self.edits.apply(recovered.voxels, recovered.labels, recovered.complete)
        strokes = "1 unsaved stroke" if recovered.strokes == 1 else f"{recovered.strokes} unsaved strokes"
        self.session.notify(
            "warning",
            f"Recovered {strokes} on {self.session.scan} after the viewer ended unexpectedly; "
            "Ctrl+Z removes them.",
        )
