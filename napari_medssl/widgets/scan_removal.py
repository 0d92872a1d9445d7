"""Renames and removes scans, after a question that says what is lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from medssl.core.errors import UserError
from medssl.core.features.landmarks import read_landmarks
from medssl.core.project.contents import Scan
from medssl.core.project.disk_usage import disk_usage, size_text
from medssl.core.project.kept import annotation_files
from medssl.core.project.project import Project
from medssl.core.project.removal import check_not_training, remove_scan
from qtpy.QtWidgets import QInputDialog, QLineEdit, QMessageBox, QWidget

from napari_medssl import layers
from napari_medssl.error_handling import catch_errors
from napari_medssl.latest_only_worker import LatestOnlyWorker
from napari_medssl.workspace import Workspace


@dataclass(frozen=True)
class Loss:
    """What goes with a scan.

    Attributes:
        disk_bytes: Space that it takes in the project.
        annotated: Whether there is an annotation, which is kept.
        predictions: Number of runs that have segmented it.
        landmarks: Number of landmarks that were set in it.
    """

    disk_bytes: int
    annotated: bool
    predictions: int
    landmarks: int


class ScanRemoval:
    """Finds what goes with a scan, asks, and removes it; another scan comes on the screen first."""

    def __init__(self, workspace: Workspace, parent: QWidget) -> None:
        self.workspace, self.session, self.parent = workspace, workspace.session, parent
        self._worker = LatestOnlyWorker(self.session)

    # --- renaming ------------------------------------------------------------------------------------

    def ask_name(self, scan: Scan) -> None:
        """Ask for a name, and call the scan by it."""
        text = "Name of the scan (its exports are named after it):"
        name, agreed = QInputDialog.getText(
            self.parent, "Rename scan", text, QLineEdit.EchoMode.Normal, scan.title
        )
        if agreed:
            catch_errors(self.session, lambda: self.rename(scan, name.strip()))

    def rename(self, scan: Scan, name: str) -> None:
        """Call a scan by another name.

        Raises:
            UserError: Those of `Project.rename_scan`.
        """
        self.session.need_project().rename_scan(scan.id, name)
        for layer in layers.of_scan(self.workspace.viewer, scan.id):
            if layer.name.startswith(scan.title):
                layer.name = name + layer.name.removeprefix(scan.title)
        self.session.scans_changed.emit()

    # --- removing ------------------------------------------------------------------------------------

    def ask(self, scan: Scan) -> None:
        """Remove a scan, after a question."""
        catch_errors(self.session, lambda: self._search(scan))

    def _search(self, scan: Scan) -> None:
        if self._worker.busy:
            raise UserError("A scan is being removed; try again in a moment.", code="busy")
        project = self.session.need_project()
        self._need_free()
        self.workspace.autosave.flush()

        def search() -> Iterator[Loss]:
            check_not_training(project)
            yield loss_of(project, scan)

        self._worker.submit(search, lambda loss: self._ask(scan, loss))

    def _need_free(self) -> None:
        self.session.need_project().need_writable()
        if self.session.job.running:
            raise UserError("A job is running and may use this scan; stop it first.", code="busy")

    def _ask(self, scan: Scan, loss: Loss) -> None:
        answer = QMessageBox.question(self.parent, "Remove scan", describe(scan, loss))
        if answer == QMessageBox.StandardButton.Yes:
            self.remove(scan.id)

    def remove(self, scan_id: str) -> None:
        """Remove a scan; if it is on the screen, its neighbour in the table is opened before.

        Raises:
            UserError: A job is running ("busy"), the project is read-only, or strokes cannot be saved.
        """
        scans = list(self.session.need_project().scans)
        place = scans.index(scan_id)
        neighbour = next(iter(scans[place + 1 :] or scans[:place][::-1]), None)
        if scan_id == self.session.scan and neighbour is not None:
            self.workspace.scan_loader.open(neighbour, lambda: self._remove(scan_id))
        else:
            self._remove(scan_id)

    def _remove(self, scan_id: str) -> None:
        self._need_free()
        self.workspace.autosave.flush()
        project, title = self.session.need_project(), self.session.need_project().scan(scan_id).title
        layer = self.workspace.annotation_layer
        if scan_id == self.session.scan and layer is not None:
            layer.editable = False  # what would be painted now has no scan any more

        def remove() -> Iterator[str]:
            kept = remove_scan(project, scan_id)
            yield f"; its annotation is kept in {kept} and comes back with the scan" if kept else ""

        self._worker.submit(remove, lambda rest: self._on_removed(scan_id, f"Removed {title}{rest}."))

    def _on_removed(self, scan_id: str, text: str) -> None:
        if scan_id == self.session.scan:  # the last one
            self.session.open(self.session.need_project().root)
        else:
            self.session.forget(scan_id)
        self.session.notify("info", text)


def loss_of(project: Project, scan: Scan) -> Loss:
    """What goes with a scan; looks at each file of the project."""
    predictions = sum(project.prediction_file(run.id, scan.id).exists() for run in project.runs())
    try:
        landmarks = sum(point.scan == scan.id for point in read_landmarks(project).points)
    except UserError:
        landmarks = 0  # a damaged file stays as it is
    annotated = bool(annotation_files(project.root / "annotations", scan.id))
    return Loss(disk_usage(project).scans.get(scan.id, 0), annotated, predictions, landmarks)


def describe(scan: Scan, loss: Loss) -> str:
    """The question whether to remove a scan."""
    lines = [f"Remove {scan.title} from the project? Its file {scan.source} is not touched."]
    if loss.annotated:
        lines.append(
            'Its annotation stays in the folder "removed" of the project and comes back when the scan is '
            "added again."
        )
    gone = [
        f"{number} {noun}{'s' * (number != 1)}"
        for number, noun in ((loss.predictions, "prediction"), (loss.landmarks, "landmark"))
        if number
    ]
    what = f"the project's copy and {', '.join(gone)}" if gone else "the project's copy"
    lines.append(f"Deleted are {what} ({size_text(loss.disk_bytes)}).")
    return "\n\n".join(lines)
