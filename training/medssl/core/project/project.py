"""The project folder (scans, annotations, classes, runs), which is all that plugin and engine share.

project.json          version, classes, scans
view-state.json       where the viewer was left
scans/<id>.npy        normalised image, float16 (Z, Y, X), read as a memory map; others: <id>.<channel>.npy
annotations/<id>.npz  labels and complete slices in one file
runs/0001-.../        job.json, events.jsonl, run.log, checkpoint.safetensors, card.json, predictions/;
                      remote.json while another computer trains it
features/             cached dense features
removed/              annotations of scans that were removed, see kept.py
*.lock                see locks.py
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medssl.core.errors import UserError
from medssl.core.files import exists, make_folder
from medssl.core.json_files import write_json
from medssl.core.project.annotation import IGNORE, SURE_BACKGROUND, Annotation
from medssl.core.project.annotation_file import (
    DAMAGED,
    class_ids,
    is_annotated,
    read_annotation,
    read_origin,
    write_annotation,
)
from medssl.core.project.channel_store import ChannelStore
from medssl.core.project.contents import (
    FORMAT_VERSION,
    Contents,
    LabelClass,
    Scan,
    check_classes,
    to_json,
)
from medssl.core.project.locks import change_lock
from medssl.core.project.manifest import FILE, is_project
from medssl.core.project.names import check_folder_name
from medssl.core.project.origin import Origin, is_current, origin_of
from medssl.core.project.runs import Run, find_run, list_runs, make_run
from medssl.core.project.view_state import ViewState, read_view_state, write_view_state
from medssl.core.typed import convert

__all__ = [
    "FORMAT_VERSION", "IGNORE", "SURE_BACKGROUND", "Annotation", "LabelClass", "Project", "Run", "Scan",
    "ViewState", "is_project",
]  # fmt: skip

PREDICTION_FORMAT = 1
"""Version of the computation of predictions; those of another version are computed again."""


class Project(ChannelStore):
    """An open project folder. Every change is on disk when the method that makes it returns.

    Example:
        >>> project = Project.create("liver", [LabelClass(1, "liver", "#ff9e64")])
        >>> scan = project.add_scan(Path("imagesTr/liver_0.nii.gz"))
        >>> project.image(scan.id).shape
    """

    view_state: ViewState
    """Where the viewer was left; see `save_view_state`."""

    def __init__(self, root: Path) -> None:
        """Use `open` or `create`."""
        super().__init__(root)
        self.view_state = read_view_state(self.root, self.former_view_state)

    @classmethod
    def create(cls, root: Path, classes: Sequence[LabelClass] = (), or_open: bool = False) -> Project:
        """Create a project, and its folder if it does not exist.

        Args:
            root: The folder.
            classes: Classes of a new project.
            or_open: Open the project that the folder holds already, as it is.

        Raises:
            UserError: "exists" if it holds a project, and those of `check_folder_name` and `check_classes`.
        """
        if not is_project(root):
            check_folder_name(root)
            contents = Contents(classes=check_classes(classes))
            with change_lock(make_folder(Path(root))):
                if not is_project(root):  # another process may have made it just now
                    write_json(Path(root) / FILE, to_json(contents))
                    return cls(root)
        if not or_open:
            raise UserError(
                f"{root} already holds a project; open it or choose another folder.", code="exists"
            )
        return cls(root)

    @classmethod
    def open(cls, root: Path) -> Project:
        """Open a project folder; raises the errors of `refresh`."""
        return cls(root)

    def save_view_state(self, state: ViewState) -> None:
        """Save where the viewer was left."""
        self.need_writable()
        write_view_state(self.root, state)
        self.view_state = state

    # ---- annotations

    def annotation(self, scan_id: str) -> Annotation | None:
        """The annotation of a scan; None if there is none."""
        path = self.annotation_file(scan_id)
        if exists(path):
            scan = self.scans[scan_id]
            return read_annotation(path, scan.geometry.shape_zyx, scan.sha256)
        self.need_here()  # one that was moved away must not be taken for an empty one
        return None

    def save_annotation(self, scan_id: str, annotation: Annotation) -> None:
        """Save the annotation of a scan, atomically.

        Raises:
            UserError: "wrong-shape" for an annotation of another scan, "disk-full", "not-writable",
                "read-only".
        """
        self.need_writable()
        path = self.make_folder("annotations") / self.annotation_file(scan_id).name
        scan = self.scans[scan_id]
        write_annotation(path, annotation, scan.geometry.shape_zyx, scan_sha256=scan.sha256)

    def annotated(self, held_out: bool = False) -> tuple[str, ...]:
        """Ids of scans with an annotated voxel or a complete slice; with `held_out` also those held out.

        Scans with a damaged annotation are left out; damage.py names them.
        """
        scans = [scan for scan in self.scans.values() if held_out or not scan.held_out]
        return tuple(scan.id for scan in scans if self._is_annotated(scan))

    def _is_annotated(self, scan: Scan) -> bool:
        try:
            return is_annotated(self.annotation_file(scan.id), scan.geometry.shape_zyx, scan.sha256)
        except UserError as error:
            if error.code not in DAMAGED:
                raise
            return False

    def annotated_ids(self, scan_id: str) -> set[int]:
        """Class ids among the labels and interpolated labels of an annotated scan."""
        return class_ids(self.annotation_file(scan_id))

    def annotation_file(self, scan_id: str) -> Path:
        """Path of the annotation of a scan, which need not exist yet."""
        return self.root / "annotations" / f"{self.scan(scan_id).id}.npz"

    # ---- runs and predictions

    def new_run(self, kind: str, job: dict[str, Any], name: str) -> Run:
        """Create the folder and the job file of a run, see `make_run`."""
        self.need_writable()
        folder = self.make_folder("runs")
        with change_lock(self.root):
            return make_run(folder, kind, job, name)

    def runs(self, kind: str | None = None) -> list[Run]:
        """All runs, or those of a kind ("pretrain", "finetune"), oldest first."""
        return [run for run in list_runs(self.root / "runs") if kind in (None, run.kind)]

    def run(self, run_id: str) -> Run:
        """The run with an id; raises the errors of `find_run`."""
        return find_run(self.root / "runs", run_id)

    def prediction(self, run_id: str, scan_id: str) -> np.ndarray | None:
        """Class ids that a run has predicted for a scan, uint8 (Z, Y, X); None if it has not.

        Raises:
            UserError: "outdated" if it has predicted it with earlier weights, and those of `read_annotation`.
        """
        path = self.prediction_file(run_id, scan_id)
        if not path.exists():
            return None
        if not self._is_current(path, run_id, scan_id):
            title = self.scans[scan_id].title
            raise UserError(
                f"{title} was predicted with earlier weights of {run_id}; predict it again.", code="outdated"
            )
        return read_annotation(path, self.scans[scan_id].geometry.shape_zyx).labels

    def has_prediction(self, run_id: str, scan_id: str) -> bool:
        """Whether a run has predicted a scan with its present weights."""
        path = self.prediction_file(run_id, scan_id)
        try:
            return path.exists() and self._is_current(path, run_id, scan_id)
        except UserError:
            return False  # damaged

    def _is_current(self, path: Path, run_id: str, scan_id: str) -> bool:
        stored, run = read_origin(path), self.run(run_id)
        if stored is None:  # of a former version: not older than the weights
            return not run.checkpoint.exists() or path.stat().st_mtime >= run.checkpoint.stat().st_mtime
        return is_current(stored, self._origin(run.weights_sha256, scan_id))

    def _origin(self, weights_sha256: str, scan_id: str) -> Origin:
        return origin_of(self.scan(scan_id), weights_sha256, PREDICTION_FORMAT)

    def prediction_origin(self, run_id: str, scan_id: str) -> Origin:
        """What a prediction of a scan by the present weights of a run is made from."""
        return self._origin(self.run(run_id).weights_sha256, scan_id)

    def prediction_file(self, run_id: str, scan_id: str) -> Path:
        """Path of the prediction of a scan by a run, which need not exist yet."""
        return self.root / "runs" / run_id / "predictions" / f"{self.scan(scan_id).id}.npz"

    def expected_dice(self, run_id: str, scan_id: str) -> dict[int, float] | None:
        """Dice that the network expects of its prediction of a scan, 0..1 by class id.

        None without a prediction by the present weights, and for one of a former version.
        """
        if not self.has_prediction(run_id, scan_id):
            return None
        path = self.prediction_file(run_id, scan_id)
        stored = (read_origin(path) or {}).get("expected_dice")
        if stored is None:
            return None
        return dict(convert(list[tuple[int, float]], stored, str(path), "unreadable"))

    def save_prediction(
        self,
        run_id: str,
        scan_id: str,
        labels: np.ndarray,
        weights_sha256: str | None = None,
        expected_dice: Mapping[int, float] | None = None,
    ) -> Path:
        """Save the prediction of a scan by a run; returns the path of the file.

        Args:
            labels: Class ids, uint8 (Z, Y, X).
            weights_sha256: Fingerprint of the weights that have predicted it (origin.py); that of the run's
                present weights by default.
            expected_dice: Dice that the network expects, 0..1 by class id.
        """
        self.need_writable()
        run = self.run(run_id)
        path = self.prediction_file(run.id, scan_id)
        origin = self._origin(run.weights_sha256 if weights_sha256 is None else weights_sha256, scan_id)
        known = {} if expected_dice is None else {"expected_dice": list(expected_dice.items())}
        self.make_folder("runs", run_id, "predictions")
        shape_zyx = self.scans[scan_id].geometry.shape_zyx
        write_annotation(path, Annotation(labels), shape_zyx, {**origin, **known})
        return path

    def segmentation(
        self, scan_id: str, run_id: str | None = None, predicted: np.ndarray | None = None
    ) -> np.ndarray:
        """The annotation where there is one, the prediction elsewhere: class ids, uint8 (Z, Y, X).

        Args:
            run_id: Run whose prediction is used; None for background.
            predicted: Prediction to use instead, class ids, uint8 (Z, Y, X).

        Raises:
            UserError: "nothing-yet" if the prediction or, without a run, the annotation does not exist,
                "outdated" for a prediction of earlier weights.
        """
        annotation = self.annotation(scan_id)
        if predicted is None and run_id:
            predicted = self.prediction(run_id, scan_id)
        if predicted is None and (run_id or annotation is None):
            missing = f"prediction of {run_id}" if run_id else "annotation"
            title = self.scan(scan_id).title
            raise UserError(f"{title} has no {missing}; annotate or predict it first.", code="nothing-yet")
        result = (
            predicted if predicted is not None else np.zeros(self.scans[scan_id].geometry.shape_zyx, np.uint8)
        )
        if annotation is None:
            return result
        target = annotation.target()
        return np.where(target != IGNORE, target, result)
