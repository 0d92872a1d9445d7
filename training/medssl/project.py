"""The project folder: scans, annotations, classes, runs. All that plugin and engine share.

project.json          version, classes, scans, where the viewer was left
scans/<id>.npy        normalised image, float16 (Z, Y, X), read as a memory map
annotations/<id>.npz  what was painted and which slices are complete, one file
runs/0001-.../        job.json, events.jsonl, run.log, checkpoint.safetensors, card.json, predictions/
features/             cached dense features
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medssl.annotation import IGNORE, SURE_BACKGROUND, Annotation, read_annotation, write_annotation
from medssl.errors import UserError
from medssl.files import read_array, read_json, write_array, write_json
from medssl.geometry import Geometry
from medssl.intensity import modality_of, normalise
from medssl.volume import read_scan, write_labels

__all__ = ["IGNORE", "SURE_BACKGROUND", "Annotation", "LabelClass", "Project", "Run", "Scan", "is_project"]

FORMAT_VERSION = 1


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


@dataclass(frozen=True)
class Run:
    """A training and what it left; ids sort in the order of their start."""

    id: str
    kind: str
    folder: Path
    job: dict[str, Any]

    @property
    def checkpoint(self) -> Path:
        """Where the weights are, or will be."""
        return self.folder / "checkpoint.safetensors"

    @property
    def card(self) -> dict[str, Any]:
        """What is known of the weights; empty before the first checkpoint."""
        path = self.folder / "card.json"
        return read_json(path) if path.exists() else {}


def is_project(path: Path) -> bool:
    """Whether the folder holds a project."""
    return (Path(path) / "project.json").is_file()


class Project:
    """An open project folder. What it says is on disk at the latest when a method returns."""

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
        """Make a project in an empty or new folder.

        Raises UserError ("exists") where there is one already.
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
            classes = tuple(LabelClass(**each) for each in value["classes"])
            scans = {
                each["id"]: Scan(**{**each, "geometry": Geometry.from_json(each["geometry"])})
                for each in value["scans"]
            }
            return cls(Path(root), classes, scans, dict(value["view_state"]))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise UserError(
                f"{path} is damaged ({error}); restore it from a backup, annotations and runs beside it are intact.",
                code="unreadable",
            ) from error

    def _save(self) -> None:
        scans = [{**asdict(scan), "geometry": scan.geometry.to_json()} for scan in self.scans.values()]
        write_json(
            self.root / "project.json",
            {
                "version": FORMAT_VERSION,
                "classes": [asdict(each) for each in self.classes],
                "scans": scans,
                "view_state": self.view_state,
            },
        )

    # ---- scans and classes

    def add_scan(self, path: Path, held_out: bool = False) -> Scan:
        """Read, check and normalise a scan; the same content twice gives the scan that is already there.

        Raises UserError for anything that is not one finite 3D scalar scan.
        """
        path = Path(path).resolve()
        volume = read_scan(path)
        digest = hashlib.sha256(volume.array.tobytes() + repr(volume.geometry).encode()).hexdigest()
        for scan in self.scans.values():
            if scan.sha256 == digest:
                return scan
        modality = modality_of(volume.array)
        scan = Scan(self._free_id(path), str(path), digest, volume.geometry, modality, held_out)
        image = normalise(volume.array, modality).astype(np.float16)
        write_array(self.root / "scans" / f"{scan.id}.npy", image)
        self.scans = {**self.scans, scan.id: scan}
        self._save()
        return scan

    def _free_id(self, path: Path) -> str:
        name = re.sub(r"\.(nii|gz|nrrd|nhdr|mha|mhd|mgz|mgh|hdr|img|dcm)(?=\.|$)", "", path.name, flags=re.I)
        base = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "scan"
        number, candidate = 1, base
        while candidate in self.scans:
            number += 1
            candidate = f"{base}-{number}"
        return candidate

    def image(self, scan_id: str) -> np.ndarray:
        """The normalised scan, float16 (Z, Y, X), memory-mapped."""
        return read_array(self.root / "scans" / f"{self._scan(scan_id).id}.npy", memory_map=True)

    def hold_out(self, scan_id: str, held_out: bool = True) -> None:
        """Keep a scan away from all training, or let it take part again."""
        self.scans = {**self.scans, scan_id: replace(self._scan(scan_id), held_out=held_out)}
        self._save()

    def set_classes(self, classes: tuple[LabelClass, ...]) -> None:
        """Replace the list of classes.

        Raises UserError ("bad-classes") for ids twice or outside 1..254.
        """
        self.classes = _checked(classes)
        self._save()

    def save_view_state(self, state: dict[str, Any]) -> None:
        """Remember where the viewer was left; plain JSON values."""
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
        path = self.root / "annotations" / f"{self._scan(scan_id).id}.npz"
        return read_annotation(path, self.scans[scan_id].geometry.shape_zyx) if path.exists() else None

    def save_annotation(self, scan_id: str, annotation: Annotation) -> None:
        """Keep what was painted; whole or not at all.

        Raises UserError ("wrong-shape") for an annotation of another scan.
        """
        shape = self._scan(scan_id).geometry.shape_zyx
        write_annotation(self.root / "annotations" / f"{scan_id}.npz", annotation, shape)

    def annotated(self) -> tuple[str, ...]:
        """Scans with any annotated voxel or complete slice, held-out ones left out."""
        found = []
        for scan in self.scans.values():
            annotation = None if scan.held_out else self.annotation(scan.id)
            if annotation is not None and (annotation.complete or annotation.labels.any()):
                found.append(scan.id)
        return tuple(found)

    # ---- runs and predictions

    def new_run(self, kind: str, job: dict[str, Any], name: str) -> Run:
        """A new run folder, numbered after the last one, with its job file."""
        taken = [int(run.id[:4]) for run in self.runs()]
        run_id = f"{max(taken, default=0) + 1:04d}-{kind}-{name}"
        folder = self.root / "runs" / run_id
        write_json(folder / "job.json", job)
        return Run(run_id, kind, folder, job)

    def runs(self, kind: str | None = None) -> list[Run]:
        """All runs, oldest first."""
        folders = sorted((self.root / "runs").glob("[0-9][0-9][0-9][0-9]-*/job.json"))
        found = [self.run(path.parent.name) for path in folders]
        return [run for run in found if kind in (None, run.kind)]

    def run(self, run_id: str) -> Run:
        """The run of that id.

        Raises UserError ("no-run").
        """
        folder = self.root / "runs" / run_id
        if not run_id or not (folder / "job.json").is_file():
            known = ", ".join(sorted(path.name for path in (self.root / "runs").glob("*") if path.is_dir()))
            raise UserError(
                f"{self.root} has no run {run_id!r}; it has {known or 'none yet'}.", code="no-run"
            )
        return Run(run_id, run_id.split("-")[1], folder, read_json(folder / "job.json"))

    def prediction(self, run_id: str, scan_id: str) -> np.ndarray | None:
        """A run's segmentation of a scan, uint8 (Z, Y, X) with class ids, or None."""
        path = self.root / "runs" / run_id / "predictions" / f"{self._scan(scan_id).id}.npz"
        if not path.exists():
            return None
        return read_annotation(path, self.scans[scan_id].geometry.shape_zyx).labels

    def save_prediction(self, run_id: str, scan_id: str, labels: np.ndarray) -> Path:
        """Keep a segmentation; returns the file."""
        path = self.run(run_id).folder / "predictions" / f"{scan_id}.npz"
        write_annotation(path, Annotation(labels), self._scan(scan_id).geometry.shape_zyx)
        return path

    def segmentation(self, scan_id: str, run_id: str | None = None) -> np.ndarray:
        """The annotation where there is one, elsewhere the run's prediction (0 without a run).

        Raises UserError ("nothing-yet") where there is neither.
        """
        annotation = self.annotation(scan_id)
        predicted = self.prediction(run_id, scan_id) if run_id else None
        if annotation is None and predicted is None:
            raise UserError(
                f"{scan_id} has neither annotation nor prediction; paint or predict it first.",
                code="nothing-yet",
            )
        shape = self._scan(scan_id).geometry.shape_zyx
        result = np.zeros(shape, np.uint8) if predicted is None else predicted.copy()
        if annotation is not None:
            target = annotation.target()
            result = np.where(target != IGNORE, target, result)
        return result

    def export(self, scan_id: str, run_id: str | None, path: Path) -> None:
        """Write the segmentation on the source's own grid."""
        write_labels(Path(path), self.segmentation(scan_id, run_id), self._scan(scan_id).geometry)


def _checked(classes: tuple[LabelClass, ...]) -> tuple[LabelClass, ...]:
    ids = [each.id for each in classes]
    if len(set(ids)) < len(ids) or not all(1 <= each <= 254 for each in ids):
        raise UserError(
            f"Class ids {ids} do not work; give each class its own number from 1 to 254.", code="bad-classes"
        )
    return tuple(classes)
