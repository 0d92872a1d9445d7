"""The project folder: scans, annotations, classes, runs. All that plugin and engine share.

project.json          version, classes, scans, where the viewer was left
scans/<id>.npy        normalised image, float16 (Z, Y, X), read as a memory map
annotations/<id>.npz  what was painted and which slices are complete, one file
runs/0001-.../        job.json, events.jsonl, run.log, checkpoint.safetensors, card.json, predictions/
features/             cached dense features
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medssl.annotation import (
    IGNORE,
    SURE_BACKGROUND,
    Annotation,
    is_empty,
    read_annotation,
    write_annotation,
)
from medssl.errors import UserError
from medssl.files import read_array, read_json, write_array, write_json
from medssl.geometry import Geometry
from medssl.intensity import modality_of, normalise
from medssl.runs import Run, find_run, list_runs, make_run
from medssl.volume import READABLE, Volume, read_scan, write_labels

__all__ = ["IGNORE", "SURE_BACKGROUND", "Annotation", "LabelClass", "Project", "Run", "Scan", "is_project"]

FORMAT_VERSION = 1
LONGEST_NAME = 80


@dataclass(frozen=True)
class LabelClass:
    """A structure to segment; `id` (1..254) is also its value in exported files."""

    id: int
    name: str
    color: str
    """ "#rrggbb"."""


@dataclass(frozen=True)
class Scan:
    """A scan of the project. `source` is the file or DICOM folder it came from."""

    id: str
    source: str
    sha256: str
    geometry: Geometry
    modality: str
    held_out: bool = False
    """Never trained on, with or without labels: kept to test on."""


def is_project(path: Path) -> bool:
    """Whether the folder holds a project."""
    return (Path(path) / "project.json").is_file()


class Project:
    """An open project folder. What it says is on disk at the latest when a method returns.

    Several processes may have it open (viewer, engine, command line): every change is made to what is on
    disk at that moment.
    """

    def __init__(
        self,
        root: Path,
        classes: tuple[LabelClass, ...],
        scans: dict[str, Scan],
        view_state: dict[str, Any],
    ) -> None:
        self.root, self.classes, self.scans, self.view_state = Path(root), classes, scans, view_state

    @classmethod
    def create(cls, root: Path, classes: tuple[LabelClass, ...] = ()) -> Project:
        """Make a project in a folder, which is made, too.

        Raises UserError ("exists") where there is one already, "bad-classes", "not-writable".
        """
        if is_project(root):
            raise UserError(
                f"{root} already holds a project; open it or choose another folder.", code="exists"
            )
        project = cls(Path(root), _checked(classes), {}, {})
        project._save()
        return project

    @classmethod
    def open(cls, root: Path) -> Project:
        """Open a project folder.

        Raises UserError ("not-a-project", "newer-version", "unreadable").
        """
        path = Path(root) / "project.json"
        if not path.is_file():
            raise UserError(
                f"{root} holds no project; make one with `medssl init` or by adding scans in the viewer.",
                code="not-a-project",
            )
        value = read_json(path)
        version = value.get("version") if isinstance(value, dict) else None
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise UserError(
                f"{path} was written by a newer version of medssl; update this one to open it.",
                code="newer-version",
            )
        try:
            if version != FORMAT_VERSION:
                raise ValueError(f"version {version!r}")
            classes = _checked(tuple(LabelClass(**each) for each in value["classes"]))
            scans = {each["id"]: _scan_from_json(each) for each in value["scans"]}
            return cls(Path(root), classes, scans, dict(value["view_state"]))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, UserError) as error:
            raise UserError(
                f"{path} is damaged ({error}); restore it from a backup, the annotations and runs beside it "
                "are intact.",
                code="unreadable",
            ) from error

    def _save(self) -> None:
        scans = [{**asdict(scan), "geometry": scan.geometry.to_json()} for scan in self.scans.values()]
        value = {
            "version": FORMAT_VERSION,
            "classes": [asdict(each) for each in self.classes],
            "scans": scans,
            "view_state": self.view_state,
        }
        write_json(self.root / "project.json", value)

    def _refresh(self) -> None:
        """Take in what other processes have changed since."""
        now = Project.open(self.root)
        self.classes, self.scans, self.view_state = now.classes, now.scans, now.view_state

    # ---- scans and classes

    def add_scan(self, path: Path, held_out: bool = False) -> Scan:
        """Read, check and normalise a scan; the same content twice gives the scan that is already there.

        Raises UserError for anything that is not one finite 3D scalar scan.
        """
        path = Path(path).resolve()
        volume = read_scan(path)
        digest = _digest(volume)
        self._refresh()
        for known in self.scans.values():
            if known.sha256 == digest:
                return known
        modality = modality_of(volume.array)
        scan = Scan(self._free_id(path), str(path), digest, volume.geometry, modality, held_out)
        image = normalise(volume.array, modality).astype(np.float16)
        write_array(self.root / "scans" / f"{scan.id}.npy", image)
        self.scans = {**self.scans, scan.id: scan}
        self._save()
        return scan

    def _free_id(self, path: Path) -> str:
        """An id that is also a good file name on every system, and not taken in upper or lower case."""
        name, lower = path.name, path.name.lower()
        suffix = max((each for each in READABLE if lower.endswith(each)), key=len, default="")
        stem = name[: len(name) - len(suffix)]
        base = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-")[:LONGEST_NAME] or "scan"
        taken = {each.lower() for each in self.scans}
        candidates = itertools.chain([base], (f"{base}-{number}" for number in itertools.count(2)))
        return next(each for each in candidates if each.lower() not in taken)

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
        self._refresh()
        self.scans = {**self.scans, scan_id: replace(self._scan(scan_id), held_out=held_out)}
        self._save()

    def set_classes(self, classes: Sequence[LabelClass]) -> None:
        """Replace the list of classes.

        Raises UserError ("bad-classes") for ids twice or outside 1..254, and for colours that are none.
        """
        checked = _checked(tuple(classes))
        self._refresh()
        self.classes = checked
        self._save()

    def save_view_state(self, state: dict[str, Any]) -> None:
        """Remember where the viewer was left; plain JSON values."""
        self._refresh()
        self.view_state = dict(state)
        self._save()

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
        path = self._annotation_file(scan_id)
        write_annotation(path, annotation, self.scans[scan_id].geometry.shape_zyx)

    def annotated(self) -> tuple[str, ...]:
        """Scans with any annotated voxel or complete slice, held-out ones left out."""
        files = {scan.id: self._annotation_file(scan.id) for scan in self.scans.values() if not scan.held_out}
        return tuple(scan_id for scan_id, path in files.items() if path.exists() and not is_empty(path))

    def _annotation_file(self, scan_id: str) -> Path:
        return self.root / "annotations" / f"{self._scan(scan_id).id}.npz"

    # ---- runs and predictions

    def new_run(self, kind: str, job: dict[str, Any], name: str) -> Run:
        """A new run folder, numbered after the last one, with its job file."""
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
        path = self.root / "runs" / run_id / "predictions" / f"{self._scan(scan_id).id}.npz"
        if not path.exists():
            return None
        return read_annotation(path, self.scans[scan_id].geometry.shape_zyx).labels

    def save_prediction(self, run_id: str, scan_id: str, labels: np.ndarray) -> Path:
        """Keep a segmentation; returns the file."""
        path = self.run(run_id).folder / "predictions" / f"{self._scan(scan_id).id}.npz"
        write_annotation(path, Annotation(labels), self.scans[scan_id].geometry.shape_zyx)
        return path

    def segmentation(self, scan_id: str, run_id: str | None = None) -> np.ndarray:
        """The annotation where there is one, elsewhere the run's prediction (0 without a run).

        Raises UserError ("nothing-yet") where the run has not predicted the scan, or, without a run,
        nothing was painted.
        """
        annotation = self.annotation(scan_id)
        predicted = self.prediction(run_id, scan_id) if run_id else None
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

    def export(self, scan_id: str, run_id: str | None, path: Path) -> None:
        """Write the segmentation on the source's own grid.

        Raises UserError ("nothing-yet", "unsupported", "disk-full", "not-writable").
        """
        write_labels(Path(path), self.segmentation(scan_id, run_id), self._scan(scan_id).geometry)


def _digest(volume: Volume) -> str:
    """Fingerprint of voxels and grid: the same scan in another file, format or folder is found again."""
    digest = hashlib.sha256(volume.array.data)
    digest.update(repr(volume.geometry).encode())
    return digest.hexdigest()


def _scan_from_json(value: dict[str, Any]) -> Scan:
    scan = Scan(**{**value, "geometry": Geometry.from_json(value["geometry"])})
    if not re.fullmatch(r"[A-Za-z0-9_-]+", scan.id):  # ids become file names
        raise ValueError(f"scan id {scan.id!r}")
    return scan


def _checked(classes: tuple[LabelClass, ...]) -> tuple[LabelClass, ...]:
    ids = [each.id for each in classes]
    if len(set(ids)) < len(ids) or not all(isinstance(each, int) and 1 <= each <= 254 for each in ids):
        raise UserError(
            f"Class ids {ids} do not work; give each class its own number from 1 to 254.", code="bad-classes"
        )
    for each in classes:
        if not re.fullmatch(r"#[0-9A-Fa-f]{6}", each.color):
            raise UserError(
                f'Class {each.name!r} has the colour {each.color!r}; write it as "#rrggbb".',
                code="bad-classes",
            )
    return classes
