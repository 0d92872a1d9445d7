"""The project folder: scans, annotations, classes, runs. All that plugin and engine share.

project.json          version, classes, scans, where the viewer was left
scans/<id>.npy        normalised image, float16 (Z, Y, X), read as a memory map
annotations/<id>.npz  what was painted and which slices are complete, one file
runs/0001-.../        job.json, events.jsonl, run.log, checkpoint.safetensors, card.json, predictions/
features/             cached dense features
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medssl.core.errors import UserError
from medssl.core.files import read_array, write_array
from medssl.core.io.intensity import modality_of, normalise
from medssl.core.io.volume import Volume, read_scan
from medssl.core.project.annotation import (
    IGNORE,
    SURE_BACKGROUND,
    Annotation,
    is_empty,
    read_annotation,
    write_annotation,
)
from medssl.core.project.contents import (
    FORMAT_VERSION,
    Contents,
    LabelClass,
    Scan,
    check_classes,
    free_id,
    read_contents,
    write_contents,
)
from medssl.core.project.runs import Run, find_run, list_runs, make_run

__all__ = [
    "FORMAT_VERSION", "IGNORE", "SURE_BACKGROUND", "Annotation", "LabelClass", "Project", "Run", "Scan",
    "is_project",
]  # fmt: skip


def is_project(path: Path) -> bool:
    """Whether the folder holds a project."""
    return (Path(path) / "project.json").is_file()


class Project:
    """An open project folder. What it says is on disk at the latest when a method returns.

    Several processes may have it open (viewer, engine, command line): every change is made to what is on
    disk at that moment.
    """

    root: Path
    classes: tuple[LabelClass, ...]
    scans: dict[str, Scan]
    """By id, in the order in which they were added."""
    view_state: dict[str, Any]
    """Where the viewer was left; see `save_view_state`."""
    read_only: str
    """Why this process may not change the project, a sentence; empty where it may."""

    def __init__(self, root: Path) -> None:
        """Use `open` or `create`."""
        self.root, self.read_only = Path(root), ""
        self._refresh()

    @classmethod
    def create(cls, root: Path, classes: Sequence[LabelClass] = ()) -> Project:
        """Make a project in a folder, which is made, too.

        Raises UserError ("exists") where there is one already, "bad-classes", "not-writable".
        """
        if is_project(root):
            raise UserError(
                f"{root} already holds a project; open it or choose another folder.", code="exists"
            )
        write_contents(Path(root) / "project.json", Contents(classes=check_classes(classes)))
        return cls(root)

    @classmethod
    def open(cls, root: Path) -> Project:
        """Open a project folder.

        Raises UserError ("not-a-project", "newer-version", "unreadable").
        """
        return cls(root)

    def _refresh(self) -> Contents:
        """Take in what stands on disk now; other processes may have changed it."""
        return self._take(read_contents(self.root / "project.json"))

    def need_writable(self) -> None:
        """Raises UserError ("read-only") where this process may only look; all that writes asks first."""
        if self.read_only:
            raise UserError(self.read_only, code="read-only")

    def _change(self, **fields: Any) -> None:
        """Replace fields of project.json, and only these."""
        self.need_writable()
        contents = replace(self._refresh(), **fields)
        write_contents(self.root / "project.json", contents)
        self._take(contents)

    def _take(self, contents: Contents) -> Contents:
        self.classes, self.view_state = contents.classes, contents.view_state
        self.scans = {scan.id: scan for scan in contents.scans}
        return contents

    # ---- scans and classes

    def add_scan(self, path: Path, held_out: bool = False) -> Scan:
        """Read, check and normalise a scan; the same content twice gives the scan that is already there,
        which `held_out` then holds out, too.

        Raises UserError for anything that is not one finite 3D scalar scan.
        """
        self.need_writable()
        path = Path(path).resolve()
        volume = read_scan(path)
        digest = fingerprint(volume)
        self._refresh()
        for known in self.scans.values():
            if known.sha256 == digest:
                if held_out and not known.held_out:
                    self.hold_out(known.id)
                return self.scans[known.id]
        modality = modality_of(volume.array)
        scan = Scan(free_id(path, self.scans), str(path), digest, volume.geometry, modality, held_out)
        image = normalise(volume.array, modality).astype(np.float16)
        write_array(self.root / "scans" / f"{scan.id}.npy", image)
        self._refresh()
        self._change(scans=(*self.scans.values(), scan))
        return scan

    def image(self, scan_id: str) -> np.ndarray:
        """The normalised scan, float16 (Z, Y, X), memory-mapped.

        Raises UserError ("no-scan", "missing", "unreadable").
        """
        scan = self._scan(scan_id)
        path = self.root / "scans" / f"{scan.id}.npy"
        image = read_array(path, memory_map=True)
        if image.shape != scan.geometry.shape_zyx or image.dtype != np.float16:
            raise UserError(
                f"{path} is not the image of its scan; delete the project and add its scans again.",
                code="unreadable",
            )
        return image

    def hold_out(self, scan_id: str, held_out: bool = True) -> None:
        """Keep a scan away from all training, or let it take part again."""
        self._change_scan(scan_id, held_out=held_out)

    def set_reference(self, scan_id: str, labels: Path | None) -> None:
        """Say which label file a scan's predictions are compared with, or that there is none."""
        self._change_scan(scan_id, reference=str(Path(labels).resolve()) if labels else "")

    def _change_scan(self, scan_id: str, **fields: Any) -> None:
        self._refresh()
        changed = {**self.scans, scan_id: replace(self._scan(scan_id), **fields)}
        self._change(scans=tuple(changed.values()))

    def set_classes(self, classes: Sequence[LabelClass]) -> None:
        """Replace the list of classes.

        Raises UserError ("bad-classes") for ids twice or outside 1..254, and for colours that are none.
        """
        self._change(classes=check_classes(classes))

    def save_view_state(self, state: dict[str, Any]) -> None:
        """Remember where the viewer was left; plain JSON values."""
        self._change(view_state=dict(state))

    def _scan(self, scan_id: str) -> Scan:
        if scan_id not in self.scans:
            raise UserError(
                f"{self.root} has no scan {scan_id!r}; it has {', '.join(self.scans) or 'none yet'}.",
                code="no-scan",
            )
        return self.scans[scan_id]

    # ---- annotations

    def annotation(self, scan_id: str) -> Annotation | None:
        """What was painted on a scan, or None."""
        path = self._annotation_file(scan_id)
        return read_annotation(path, self.scans[scan_id].geometry.shape_zyx) if path.exists() else None

    def save_annotation(self, scan_id: str, annotation: Annotation) -> None:
        """Keep what was painted; whole or not at all.

        Raises UserError ("wrong-shape") for an annotation of another scan, "disk-full", "not-writable".
        """
        self.need_writable()
        path = self._annotation_file(scan_id)
        write_annotation(path, annotation, self.scans[scan_id].geometry.shape_zyx)

    def annotated(self, held_out: bool = False) -> tuple[str, ...]:
        """Scans with any annotated voxel or complete slice; those held out only if they are asked for."""
        scans = [scan for scan in self.scans.values() if held_out or not scan.held_out]
        files = {scan.id: self._annotation_file(scan.id) for scan in scans}
        return tuple(scan_id for scan_id, path in files.items() if path.exists() and not is_empty(path))

    def _annotation_file(self, scan_id: str) -> Path:
        return self.root / "annotations" / f"{self._scan(scan_id).id}.npz"

    # ---- runs and predictions

    def new_run(self, kind: str, job: dict[str, Any], name: str) -> Run:
        """A new run folder, numbered after the last one, with its job file."""
        self.need_writable()
        return make_run(self.root / "runs", kind, job, name)

    def runs(self, kind: str | None = None) -> list[Run]:
        """All runs (of a kind), oldest first."""
        return [run for run in list_runs(self.root / "runs") if kind in (None, run.kind)]

    def run(self, run_id: str) -> Run:
        """The run of that id.

        Raises UserError ("no-run").
        """
        return find_run(self.root / "runs", run_id)

    def prediction(self, run_id: str, scan_id: str) -> np.ndarray | None:
        """A run's segmentation of a scan, uint8 (Z, Y, X) with class ids, or None."""
        if not self.has_prediction(run_id, scan_id):
            return None
        path = self.prediction_file(run_id, scan_id)
        return read_annotation(path, self.scans[scan_id].geometry.shape_zyx).labels

    def has_prediction(self, run_id: str, scan_id: str) -> bool:
        """Whether a run has segmented a scan."""
        return self.prediction_file(run_id, scan_id).exists()

    def prediction_file(self, run_id: str, scan_id: str) -> Path:
        """Where a run's segmentation of a scan is, or will be."""
        return self.root / "runs" / run_id / "predictions" / f"{self._scan(scan_id).id}.npz"

    def save_prediction(self, run_id: str, scan_id: str, labels: np.ndarray) -> Path:
        """Keep a segmentation; returns the file."""
        self.need_writable()
        path = self.prediction_file(self.run(run_id).id, scan_id)
        write_annotation(path, Annotation(labels), self.scans[scan_id].geometry.shape_zyx)
        return path

    def segmentation(
        self, scan_id: str, run_id: str | None = None, predicted: np.ndarray | None = None
    ) -> np.ndarray:
        """The annotation where there is one, elsewhere the run's prediction (0 without a run), or what is
        given as such.

        Raises UserError ("nothing-yet") where the run has not predicted the scan, or, without a run,
        nothing was painted.
        """
        annotation = self.annotation(scan_id)
        if predicted is None and run_id:
            predicted = self.prediction(run_id, scan_id)
        if predicted is None and (run_id or annotation is None):
            wanted = f"prediction of {run_id}" if run_id else "annotation"
            raise UserError(f"{scan_id} has no {wanted} yet; paint or predict it first.", code="nothing-yet")
        result = (
            predicted if predicted is not None else np.zeros(self.scans[scan_id].geometry.shape_zyx, np.uint8)
        )
        if annotation is None:
            return result
        target = annotation.target()
        return np.where(target != IGNORE, target, result)


def fingerprint(volume: Volume) -> str:
    """Fingerprint of voxels and grid: the same scan in another file, format or folder is found again."""
    digest = hashlib.sha256(volume.array.data)
    digest.update(repr(volume.geometry).encode())
    return digest.hexdigest()
