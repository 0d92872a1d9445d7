"""A viewer without a window, for the tests of what happens in it."""

from __future__ import annotations

from pathlib import Path

from napari.components import ViewerModel

from napari_medssl.annotate.crash_recovery import CrashRecovery
from napari_medssl.annotate.edits import Edits
from napari_medssl.model.session import Session
from napari_medssl.workspace import Workspace


def open_workspace(folder: Path) -> Workspace:
    """A viewer that shows a project, a new one or as after a restart; `said` has its messages."""
    session = Session()
    workspace = Workspace(ViewerModel(), session)
    workspace.edits = Edits(workspace)
    workspace.crash_recovery = CrashRecovery(workspace, workspace.edits)
    workspace.said = []
    session.message.connect(lambda severity, text: workspace.said.append(text))
    session.open(folder)
    return workspace
