"""Recovers the strokes that were not saved when a viewer was killed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medssl.core.project.stroke_log import journal_file, journal_length

from napari_medssl.annotate.edits import Edits
from napari_medssl.error_handling import catch_errors
from napari_medssl.model.annotation_state import Recovered
from napari_medssl.model.messages import LAST_UNDOABLE
from napari_medssl.workspace import Workspace


class CrashRecovery:
    """Applies the strokes in a scan's journal to its layer, as one step that Ctrl+Z undoes."""

    def __init__(self, workspace: Workspace, edits: Edits) -> None:
        self.workspace, self.session, self.edits = workspace, workspace.session, edits
        self.session.project_changed.connect(lambda: catch_errors(self.session, self._choose_scan))
        self.session.scan_changed.connect(lambda: catch_errors(self.session, self._recover))

    def _choose_scan(self) -> None:
        """A project opens with the scan that has such strokes."""
        project = self.session.need_project()
        if project.read_only:
            return
        project.remove_unfinished()
        scans = [scan for scan in project.scans if journal_length(journal_file(project.root, scan))]
        if scans:
            project.view_state = replace(project.view_state, scan=scans[0])

    def _recover(self) -> None:
        recovered = self.session.annotation.recover()
        if recovered is None:
            return
        if recovered.kept is not None:
            self.session.notify("warning", _damage(recovered.damaged, recovered.kept, self._title()))
        if recovered.strokes:
            self._apply(recovered)

    def _title(self) -> str:
        return self.session.need_scan().title

    def _apply(self, recovered: Recovered) -> None:
        if self.workspace.annotation_layer is None:
            self.workspace.new_annotation()
        self.edits.apply(recovered.voxels, recovered.labels, recovered.complete)
        self.session.annotation.end_recovery()
        strokes = "1 unsaved stroke" if recovered.strokes == 1 else f"{recovered.strokes} unsaved strokes"
        self.session.notify(
            "warning",
            f"Recovered {strokes} on {self._title()} after the viewer ended unexpectedly; "
            "Ctrl+Z removes them.",
            [LAST_UNDOABLE],
        )


def _damage(records: int, kept: Path, scan: str) -> str:
    lost = "1 stroke" if records == 1 else f"{records} strokes"
    return (
        f"{lost} on {scan} cannot be read after the viewer ended unexpectedly, because the file is damaged; "
        f"look at the last slices and paint what is missing (the file is kept as {kept})."
    )
