"""The project folder (scans, annotations, classes, runs), which is all that plugin and engine share.

project.json          version, classes, scans
view-state.json       where the viewer was left
scans/<id>.npy        normalised image, float16 (Z, Y, X), read as a memory map
annotations/<id>.npz  labels and complete slices in one file
runs/0001-.../        job.json, events.jsonl, run.log, checkpoint.safetensors, card.json, predictions/
features/             cached dense features
*.lock                see locks.py
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medssl.core.errors import UserError
from medssl.core.files import exists, make_folder, write_json
from medssl.core.io.label_detection import looks_like_labels
from medssl.core.io.masks import MASK
from medssl.core.io.volume import Volume, fingerprint, read_scan
from medssl.core.project.annotation import (
    DAMAGED,
    IGNORE,
    SURE_BACKGROUND,
    Annotation,
    class_ids,
    is_annotated,
    read_annotation,
    read_origin,
    write_annotation,
)
from medssl.core.project.contents import (
    FORMAT_VERSION,
    Contents,
    LabelClass,
    Scan,
    check_classes,
    check_folder_name,
    to_json,
)
from medssl.core.project.images import read_image, read_source, write_image
from medssl.core.project.locks import change_lock
from medssl.core.project.manifest import FILE, Manifest, is_project
from medssl.core.project.modality import choose_modality, overrules, usual_modality
from medssl.core.project.new_image import new_image
from medssl.core.project.origin import Origin, is_current, origin_of
from medssl.core.project.runs import Run, find_run, list_runs, make_run
from medssl.core.project.view_state import ViewState, read_view_state, write_view_state

__all__ = [
    "FORMAT_VERSION", "IGNORE", "SURE_BACKGROUND", "Annotation", "LabelClass", "Project", "Run", "Scan",
    "ViewState", "is_project",
]  # fmt: skip

PREDICTION_FORMAT = 1
"""Version of the computation of predictions; those of another version are computed again."""


class Project(Manifest):
    """An open project folder. Every change is on disk when the method that makes it returns.

    Example:
        >>> project = Project.create("liver", [LabelClass(1, "liver", "#ff9e64")])
        >>> scan = project.add_scan(Path("imagesTr/liver_0.nii.gz"))
        >>> project.image(scan.id).shape
    """

    view_state: ViewState
    """Where the viewer was left; see `save_view_state`."""
    on_notice: Callable[[str], object]
    """Called with a sentence for the user; in any thread."""

    def __init__(self, root: Path) -> None:
        """Use `open` or `create`."""
        super().__init__(root)
        self.view_state = read_view_state(self.root, self.former_view_state)
        self.on_notice = lambda text: None

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

    # ---- scans

    def add_scan(
        self,
        path: Path,
        held_out: bool = False,
        modality: str = "",
        usual: str = "",
        name: str = "",
        refuse_masks: bool = False,
    ) -> Scan:
        """Read, check and normalise a scan, and add it to the project.

        If the project already contains a scan with the same voxels and grid, that scan is returned; a damaged
        image of it is replaced.

        Args:
            path: A file, a folder with one DICOM series, or one file of a series.
            held_out: Exclude the scan from all training; applies to a scan that the project already contains,
                too.
            modality: One of `intensity.MODALITIES`, which overrules the file and applies to a scan that the
                project already contains, too; empty to find it out.
            usual: Modality if neither the file nor its values tell; by default that of the other scans.
            name: What the id is made from (`FoundScan.name`); by default the name of the file or folder.
            refuse_masks: Raise UserError ("mask") if its voxels are class ids.

        Raises:
            UserError: "bad-modality", "disk-full", "not-writable", "read-only", "locked", "mask", and those
                of `read_scan`.
        """
        self.need_writable()
        path = Path(path).absolute()  # a link is not followed: its target may have no telling name
        volume = read_scan(path)
        if refuse_masks and looks_like_labels(volume.array):
            raise UserError(
                f"{path} holds labels, not a scan, and is left out; give the file itself to add it.",
                code=MASK,
            )
        digest = fingerprint(volume)
        self.refresh()
        chosen, source = choose_modality(volume, modality, usual or usual_modality(self.scans.values()))
        if self._known(digest) is None:
            scan = Scan("", str(path), digest, volume.geometry, chosen, held_out, "", source, volume.notes)
            with new_image(self.make_folder("scans"), self._has) as image:
                scan = replace(scan, image_sha256=write_image(image.path, volume, chosen))
                self._insert(scan, image, name)
        known = self._known(digest)
        assert known is not None
        if held_out and not known.held_out:
            self.hold_out(known.id)
        changed = (known.modality, known.modality_source) != (chosen, source)
        if changed and overrules(source, known.modality_source):
            self.change_modality(known.id, chosen, source, volume)
        self._check_image(self._scan(known.id), lambda: volume)
        return self.scans[known.id]

    def change_modality(self, scan_id: str, modality: str, source: str, volume: Volume | None = None) -> None:
        """Change the modality of a scan, see `medssl.core.project.modality.set_modality`.

        Args:
            scan_id: Id of the scan.
            modality: One of `intensity.MODALITIES`.
            source: Where it is from.
            volume: The scan, whose image is normalised anew; None if its modality was only confirmed.
        """
        self.need_writable()
        fields = {"modality": modality, "modality_source": source}
        if volume is not None:
            path = self._image_file(self._scan(scan_id).id)
            fields["image_sha256"] = write_image(path, volume, modality)
        self._change_scan(scan_id, **fields)

    def image(self, scan_id: str) -> np.ndarray:
        """The normalised scan, float16 (Z, Y, X), as a memory map.

        A damaged file is written again from the scan's source.

        Raises:
            UserError: "no-scan", "not-readable", or "unreadable" if the source has changed or is gone, too.
        """
        scan = self._scan(scan_id)
        return self._check_image(scan, lambda: read_source(scan))

    def _check_image(self, scan: Scan, source: Callable[[], Volume]) -> np.ndarray:
        """The image of a scan, written again from `source` if it is damaged."""
        path = self._image_file(scan.id)
        try:
            return read_image(path, scan)
        except UserError as damage:
            if damage.code == "not-readable":
                raise
            self.refresh()
            if self._scan(scan.id) != scan:  # another process has changed it
                return self._check_image(self._scan(scan.id), source)
            try:
                self.need_writable()
                volume = source()
                sha256 = write_image(path, volume, scan.modality)
            except UserError as error:
                raise UserError(
                    f"The image of {scan.id} ({path}) is missing or damaged; restore it from a backup, as it "
                    f"cannot be made again: {error}",
                    code="unreadable",
                ) from damage
        if scan.image_sha256 not in ("", sha256):  # a former version has normalised it in another way
            self._change_scan(scan.id, image_sha256=sha256)
        self.on_notice(f"{path} was missing or damaged; it was made again from {volume.path}.")
        return read_image(path, self._scan(scan.id))

    def _image_file(self, scan_id: str) -> Path:
        return self.root / "scans" / f"{scan_id}.npy"

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
            return read_annotation(path, self.scans[scan_id].geometry.shape_zyx)
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
        write_annotation(path, annotation, self.scans[scan_id].geometry.shape_zyx)

    def annotated(self, held_out: bool = False) -> tuple[str, ...]:
        """Ids of scans with an annotated voxel or a complete slice; with `held_out` also those held out.

        Scans with a damaged annotation are left out; damage.py names them.
        """
        scans = [scan for scan in self.scans.values() if held_out or not scan.held_out]
        return tuple(scan.id for scan in scans if self._is_annotated(scan))

    def _is_annotated(self, scan: Scan) -> bool:
        try:
            return is_annotated(self.annotation_file(scan.id), scan.geometry.shape_zyx)
        except UserError as error:
            if error.code not in DAMAGED:
                raise
            return False

    def annotated_ids(self, scan_id: str) -> set[int]:
        """Class ids among the labels and interpolated labels of an annotated scan."""
        return class_ids(self.annotation_file(scan_id))

    def annotation_file(self, scan_id: str) -> Path:
        """Path of the annotation of a scan, which need not exist yet."""
        return self.root / "annotations" / f"{self._scan(scan_id).id}.npz"

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
            raise UserError(
                f"{scan_id} was predicted with earlier weights of {run_id}; predict it again.",
                code="outdated",
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
        return origin_of(self._scan(scan_id), weights_sha256, PREDICTION_FORMAT)

    def prediction_file(self, run_id: str, scan_id: str) -> Path:
        """Path of the prediction of a scan by a run, which need not exist yet."""
        return self.root / "runs" / run_id / "predictions" / f"{self._scan(scan_id).id}.npz"

    def save_prediction(
        self, run_id: str, scan_id: str, labels: np.ndarray, weights_sha256: str | None = None
    ) -> Path:
        """Save the prediction of a scan by a run; returns the path of the file.

        Args:
            labels: Class ids, uint8 (Z, Y, X).
            weights_sha256: Fingerprint of the weights that have predicted it (origin.py); that of the run's
                present weights by default.
        """
        self.need_writable()
        run = self.run(run_id)
        path = self.prediction_file(run.id, scan_id)
        origin = self._origin(run.weights_sha256 if weights_sha256 is None else weights_sha256, scan_id)
        self.make_folder("runs", run_id, "predictions")
        write_annotation(path, Annotation(labels), self.scans[scan_id].geometry.shape_zyx, origin)
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
            raise UserError(f"{scan_id} has no {missing}; annotate or predict it first.", code="nothing-yet")
        result = (
            predicted if predicted is not None else np.zeros(self.scans[scan_id].geometry.shape_zyx, np.uint8)
        )
        if annotation is None:
            return result
        target = annotation.target()
        return np.where(target != IGNORE, target, result)
