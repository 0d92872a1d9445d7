"""Damaged files: one file of a project, or a scan, is changed, and everything is read again.

A reader must return what it returned before, or raise a UserError. Where the file has a checksum, nothing may
be read differently in silence.
"""

from __future__ import annotations

import hashlib
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from medssl.core.errors import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "engine"))

TIMEOUT_S = 60
UNCHECKED = (".json", ".jsonl", ".log", ".nii", ".nrrd", ".mha", ".dcm", ".lock", "")
"""File extensions without a checksum: a changed digit can be a valid value."""


@dataclass(frozen=True)
class Trial:
    """One attempt: what was done to what, and the outcome (see soak.OUTCOMES)."""

    kind: str
    outcome: str
    detail: str = ""


def digest(value: Any) -> str:
    """Hash of a nested value of arrays and JSON values."""
    sha = hashlib.sha256()

    def add(node: Any) -> None:
        if isinstance(node, np.ndarray):
            sha.update(repr((node.shape, node.dtype.str)).encode())
            sha.update(np.ascontiguousarray(node).data)
        elif isinstance(node, dict):
            for name in sorted(node, key=str):
                sha.update(str(name).encode())
                add(node[name])
        elif isinstance(node, list | tuple):
            for item in node:
                add(item)
        elif hasattr(node, "numpy"):
            add(node.numpy())
        else:
            sha.update(repr(node).encode())

    add(value)
    return sha.hexdigest()


def present(value: Any) -> Any:
    """The value; None counts as a refusal: what is damaged is treated as missing."""
    if value is None:
        raise UserError("It is missing; make it anew.", code="missing")
    return value


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise TimeoutError after some seconds."""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"no answer within {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


class Damage:
    """Draws damages of a project that has everything, and of scan files in each format."""

    def __init__(self, work: Path) -> None:
        from medssl.core.features.landmarks import Landmark, Landmarks, write_landmarks
        from medssl.core.jobs import FeaturesJob
        from medssl.core.project.project import ViewState
        from medssl.core.project.stroke_log import StrokeLog, journal_file
        from medssl.core.project.stroke_records import Stroke
        from small import job_of, make_project, run

        project = make_project(work, shape=(12, 24, 24))
        self.root, self.scan = project.root, next(iter(project.scans))
        self.pretraining = run(job_of("pgl", project))["run"]
        job = job_of("finetune-none", project, weights=self.pretraining, predict_scans=(self.scan,))
        self.finetuning = run(job)["run"]
        run(FeaturesJob(str(self.root), weights=self.finetuning, scans=(self.scan,), device="cpu"))
        write_landmarks(project, Landmarks((Landmark("tip", self.scan, (1, 2, 3)),)))
        project.save_view_state(ViewState(self.scan, slices={self.scan: (0, 5)}))
        self.shape = project.scans[self.scan].geometry.shape_zyx
        self.journal = StrokeLog(journal_file(self.root, self.scan), self.shape)
        for label in (1, 2, 3):
            self.journal.append(Stroke(np.arange(label, 40), np.full(40 - label, label, np.uint8)))
        self.strokes = self._strokes()
        scans = write_scans(work / "scans")
        self.files = {file: f"scan {scan.name}" for scan in scans for file in files_of(scan)}
        """Name of the reader of each file that is outside of the project."""
        self.readers = {
            **self._project_readers(),
            **{f"scan {scan.name}": _scan_reader(scan) for scan in scans},
        }
        self.whole = {name: digest(read()) for name, read in self.readers.items()}
        self.targets = [*(path for path in files_of(self.root) if path.stat().st_size), *self.files]

    def _project_readers(self) -> dict[str, Callable[[], Any]]:
        from medssl.core.events import ran_to_completion
        from medssl.core.features.landmarks import read_landmarks
        from medssl.core.features.similarity import open_features, query_at, similarity
        from medssl.core.project.project import Project
        from medssl.nn.models import checkpoint

        def project() -> Project:
            return Project.open(self.root)

        def features() -> Any:
            cache = open_features(project(), self.scan, self.finetuning)
            return similarity(cache, query_at(cache, (1, 2, 3)))

        def annotation() -> Any:
            value = present(project().annotation(self.scan))
            return [value.labels, value.complete, value.interpolated]

        return {
            "scans": lambda: [
                (each.id, each.sha256, each.geometry.to_json()) for each in project().scans.values()
            ],
            "classes": lambda: [(each.id, each.name, each.color) for each in project().classes],
            "image": lambda: np.array(project().image(self.scan)),
            "annotation": annotation,
            "prediction": lambda: present(project().prediction(self.finetuning, self.scan)),
            "features": features,
            "landmarks": lambda: [
                (each.name, each.scan, each.voxel_zyx) for each in read_landmarks(project()).points
            ],
            "weights": lambda: checkpoint.load(project().run(self.finetuning).checkpoint)[0],
            "pre-trained weights": lambda: checkpoint.load(project().run(self.pretraining).checkpoint)[0],
            "card": lambda: project().run(self.finetuning).card,
            "job": lambda: project().run(self.finetuning).job,
            "strokes": lambda: self._strokes() == self.strokes[: len(self._strokes())],
            "view state": lambda: asdict(project().view_state),
            "log": lambda: ran_to_completion(project().run(self.finetuning).folder / "events.jsonl"),
        }

    def _strokes(self) -> list[tuple[bytes, bytes]]:
        """What the journal holds; one whose last records are missing looks like a shorter one."""
        from medssl.core.project.stroke_records import parse

        contents = parse(self.journal.path.read_bytes(), self.shape)
        if contents.damaged:
            raise UserError("The journal is damaged; what can be read is recovered.", code="damaged")
        return [(stroke.voxels.tobytes(), stroke.labels.tobytes()) for stroke in contents.strokes]

    def trial(self, random: np.random.Generator) -> Trial:
        """Damage one file, read everything, and restore it."""
        path = self.targets[int(random.integers(len(self.targets)))]
        before = path.read_bytes()
        how, content = damage(before, random, self.targets)
        kind = f"damaged {self._name(path)}"
        if content == before:
            return Trial(kind, "right")
        path.write_bytes(content)
        try:
            with time_limit(TIMEOUT_S):
                return self._read(kind, how, path)
        except TimeoutError as error:
            return Trial(kind, "hang", f"{how}: {error}")
        finally:
            path.write_bytes(before)

    def _read(self, kind: str, how: str, path: Path) -> Trial:
        outcome, detail = "right", how
        for name, read in self.readers.items():
            if self.files.get(path, name) != name or (name in self.files.values() and path not in self.files):
                continue
            try:
                if digest(read()) != self.whole[name]:
                    unchecked = "".join(path.suffixes[-2:]) != ".nii.gz" and path.suffix in UNCHECKED
                    outcome, detail = ("other, no checksum" if unchecked else "other"), f"{how}: {name}"
                    if not unchecked:
                        return Trial(kind, outcome, detail)
            except UserError as error:
                if "\n" in str(error).strip():
                    return Trial(kind, "traceback", f"{how}: {name}: more than a line: {error!r}")
                outcome = "refused" if outcome == "right" else outcome
            except TimeoutError:
                raise
            except Exception as error:
                return Trial(kind, "traceback", f"{how}: {name}: {type(error).__name__}: {error}")
        return Trial(kind, outcome, detail)

    def _name(self, path: Path) -> str:
        if path in self.files:
            return "scan " + ("".join(path.suffixes) or "dicom")
        inside = path.relative_to(self.root)
        return f"{inside.parts[0]}/*{path.suffix}" if len(inside.parts) > 1 else inside.name


def damage(content: bytes, random: np.random.Generator, others: list[Path]) -> tuple[str, bytes]:
    """(name of the damage, damaged content)."""
    data, size = bytearray(content), len(content)
    where = int(random.integers(size))
    match int(random.integers(8)):
        case 0:
            data[where] ^= 1 << int(random.integers(8))
            return f"bit flipped at {where} of {size}", bytes(data)
        case 1:
            end = min(where + 16, size)
            data[where:end] = random.bytes(end - where)
            return f"bytes {where} to {end} of {size} replaced", bytes(data)
        case 2:
            return f"cut off at {where} of {size}", bytes(data[:where])
        case 3:
            end = min(where + 512, size)
            data[where:end] = bytes(end - where)
            return f"bytes {where} to {end} of {size} zeroed", bytes(data)
        case 4:
            return "garbage appended", bytes(data) + random.bytes(64)
        case 5:
            return "emptied", b""
        case 6:
            return "random bytes", random.bytes(size)
        case _:
            other = others[int(random.integers(len(others)))]
            return f"replaced by {other.name}", other.read_bytes()


def write_scans(folder: Path) -> list[Path]:
    """A small scan in each format; returns files and folders."""
    import SimpleITK as sitk
    from dicom_files import write_series

    folder.mkdir(parents=True)
    image = np.random.default_rng(3).normal(0, 300, (12, 14, 10)).astype(np.int16)
    files = []
    for ending in (".nii", ".nii.gz", ".mgz"):
        path = folder / f"scan{ending}"
        volume = nib.MGHImage if ending == ".mgz" else nib.Nifti1Image
        nib.save(
            volume(image.astype(np.float32) if ending == ".mgz" else image, np.diag([1.0, 1, 2, 1])), path
        )
        files.append(path)
    itk = sitk.GetImageFromArray(image.transpose(2, 1, 0))
    for ending, compress in ((".nrrd", False), (".mha", False)):
        path = folder / f"scan{ending}"
        sitk.WriteImage(itk, str(path), useCompression=compress)
        files.append(path)
    write_series(folder / "series", image)
    return [*files, folder / "series"]


def files_of(path: Path) -> list[Path]:
    """All files in a folder, or the file itself."""
    return sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]


def _scan_reader(path: Path) -> Callable[[], Any]:
    from medssl.core.io.volume import read_scan

    def read() -> Any:
        volume = read_scan(path)
        return [volume.array, volume.geometry.to_json()]

    return read
