"""Sorting of the DICOM files of a folder into scans.

A series may hold several scans (phases, echoes, orientations), a localiser, and copies of slices; other files
lie beside it. Tools that replace identifiers give every slice a series of its own. This is how dcm2niix and
3D Slicer sort, too: by orientation and size first, then by what differs between images at the same position.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from medssl.core.errors import UserError
from medssl.core.io.dicom_headers import VALUES, DicomImage, NoSlices, looks_like_dicom, read_image
from medssl.core.io.dicom_split import grouped, joined, position_numbers, repeats_of, split
from medssl.core.io.geometry import AXIS_NAMES
from medssl.core.io.volume import DICOM, READABLE, suffix_of

SAME_STEP_MM = 1e-3
"""Difference of voxel edges up to which slices belong to one stack."""
MIN_MERGED = 3
"""Slices of as many different series are taken together if they fit; of two it might be chance."""


@dataclass(frozen=True, eq=False)
class Group:
    """The images of one scan, sorted by file name."""

    images: tuple[DicomImage, ...]
    label: str
    """What tells it from the other scans of its folder; empty if it is the only one."""

    @property
    def is_localiser(self) -> bool:
        """Whether it says that it is only for planning."""
        return "LOCALIZER" in self.images[0].values.get("ImageType", ())

    @property
    def files(self) -> tuple[Path, ...]:
        """One file per image."""
        return tuple(image.file for image in self.images)


@dataclass(frozen=True, eq=False)
class Sorting:
    """The DICOM files of a folder."""

    groups: tuple[Group, ...]
    """Scans and localisers with several slices, by the name of their first file."""
    left_out: dict[Path, str]
    """{file: what it is}: files that belong to no scan."""
    copies: dict[Path, Path]
    """{copy of a slice: file that is used}."""
    reasons: dict[Path, UserError]
    """{file: why it cannot be read}: those left out except copies and localisers, and damaged files."""
    damaged: tuple[Path, ...]
    """Images that cannot be read, so that slices are missing somewhere."""

    @property
    def scans(self) -> tuple[Group, ...]:
        """The groups that are no localisers."""
        return tuple(group for group in self.groups if not group.is_localiser)

    def group_of(self, file: Path) -> Group | None:
        """The scan that a file belongs to."""
        original = self.copies.get(file, file)
        return next((group for group in self.groups if original in group.files), None)


def sort_folder(folder: Path) -> Sorting:
    """Sort the DICOM files in a folder, not in its subfolders, into scans.

    Headers are read once for as long as the files stay the same.

    Raises:
        OSError: The folder cannot be read.
    """
    files = [path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file()]
    states = ((path, path.stat()) for path in files if suffix_of(path) in DICOM or is_unknown(path))
    return _sort(
        folder, tuple(sorted((path.name, state.st_size, state.st_mtime_ns) for path, state in states))
    )


def is_unknown(path: Path) -> bool:
    """Whether only its content can tell that a file is DICOM."""
    return suffix_of(path) not in READABLE


@lru_cache(maxsize=4)
def _sort(folder: Path, states: tuple[tuple[str, int, int], ...]) -> Sorting:
    images: list[DicomImage] = []
    left_out: dict[Path, str] = {}
    reasons: dict[Path, UserError] = {}
    damaged = []
    for name, size, _ in states:
        path = folder / name
        if is_unknown(path) and (not size or not looks_like_dicom(path)):
            continue
        try:
            images.append(read_image(path))
        except NoSlices as error:
            left_out[path], reasons[path] = error.kind, error
        except UserError as error:
            damaged.append(path)
            reasons[path] = error
    copies: dict[Path, Path] = {}
    groups = []
    for group in _groups(images, copies):
        if group.is_localiser:
            left_out |= dict.fromkeys(group.files, "localiser")
        if sum(len(image.slices) for image in group.images) > 1:
            groups.append(group)
            continue
        (file,) = group.files
        left_out.setdefault(file, "single slice")
        reasons[file] = UserError(
            f"{file} is a single slice; choose a series with the slices of a volume.", code="not-3d"
        )
    left_out |= dict.fromkeys(copies, "copy of a slice")
    return Sorting(tuple(_labelled(groups)), left_out, copies, reasons, tuple(damaged))


def _groups(images: Sequence[DicomImage], copies: dict[Path, Path]) -> list[Group]:
    """Scans and single slices, each labelled by what splits its series; fills `copies`."""
    groups, singles = [], []
    for series in grouped(images, lambda image: image.text("SeriesInstanceUID")):
        stacks = _parallel(_without_duplicates(series, copies))
        if len(stacks) == 1 and len(stacks[0]) == 1 and len(stacks[0][0].slices) == 1:
            singles += stacks[0]
            continue
        orientations = _orientation_labels(stacks)
        for stack, orientation in zip(stacks, orientations, strict=True):
            groups += [
                Group(tuple(part.images), joined(orientation, part.label))
                for part in split(_without_copied_pixels(stack, copies))
            ]
    return sorted(groups + _merged(singles, copies), key=lambda group: group.files)


def _merged(singles: Sequence[DicomImage], copies: dict[Path, Path]) -> list[Group]:
    """Put slices together that each have a series of their own."""
    groups = []
    names = ("PatientID", "StudyDate", "Modality", "SeriesDescription")
    for alike in grouped(singles, lambda image: tuple(image.text(name) for name in names)):
        for stack in _parallel(alike):
            parts = split(_without_copied_pixels(stack, copies))
            if len(stack) >= MIN_MERGED and all(repeats_of(part.images) == 1 for part in parts):
                groups += [Group(tuple(part.images), part.label) for part in parts]
            else:
                groups += [Group((image,), "") for image in stack]
    return groups


def _without_duplicates(images: Sequence[DicomImage], copies: dict[Path, Path]) -> list[DicomImage]:
    """Drop images that have identifier and position of an earlier one."""
    known: dict[Any, Path] = {}
    for image in sorted(images, key=lambda image: len(image.file.name)):  # "IM1 (copy)" is the copy
        key = (image.text("SOPInstanceUID"), *(item.origin.tobytes() for item in image.slices))
        if key[0] and known.setdefault(key, image.file) != image.file:
            copies[image.file] = known[key]
    return [image for image in images if image.file not in copies]


def _without_copied_pixels(images: Sequence[DicomImage], copies: dict[Path, Path]) -> list[DicomImage]:
    """Drop images that have position, elements and pixels of an earlier one."""
    if repeats_of(images) == 1:
        return list(images)
    names = [name for name in VALUES if name not in ("SOPInstanceUID", "SeriesInstanceUID", "InstanceNumber")]
    alike: dict[Any, list[DicomImage]] = defaultdict(list)
    for image, numbers in zip(images, position_numbers(images), strict=True):
        alike[(numbers, *(image.text(name) for name in names))].append(image)
    for candidates in alike.values():
        known: dict[bytes, Path] = {}
        for image in candidates if len(candidates) > 1 else ():
            original = known.setdefault(_pixel_digest(image.file), image.file)
            if original != image.file:
                copies[image.file] = original
    return [image for image in images if image.file not in copies]


def _pixel_digest(file: Path) -> bytes:
    pixels = pydicom.dcmread(file, force=True, specific_tags=["PixelData"]).get("PixelData", b"")
    return hashlib.sha256(pixels).digest()


def _parallel(images: Iterable[DicomImage]) -> list[list[DicomImage]]:
    """Lists of images of the same size, orientation and voxel size."""
    result: list[list[DicomImage]] = []
    for image in images:
        for stack in result:
            if _fit(stack[0], image):
                stack.append(image)
                break
        else:
            result.append([image])
    return result


def _fit(one: DicomImage, other: DicomImage) -> bool:
    a, b = one.slices[0], other.slices[0]
    same_steps = np.abs(a.column_step - b.column_step).max() <= SAME_STEP_MM
    return bool(
        one.size == other.size and same_steps and np.abs(a.row_step - b.row_step).max() <= SAME_STEP_MM
    )


def _orientation_labels(stacks: Sequence[Sequence[DicomImage]]) -> list[str]:
    """Names of the orientations in a series; empty if only one stack has several slices."""
    if sum(len(stack) > 1 for stack in stacks) < 2:
        return ["" for _ in stacks]
    normals = (np.cross(stack[0].slices[0].column_step, stack[0].slices[0].row_step) for stack in stacks)
    return [AXIS_NAMES[2 - int(np.argmax(np.abs(normal)))] for normal in normals]


def _labelled(groups: Sequence[Group]) -> list[Group]:
    """Labels that tell the scans of a folder apart: patient, series, and part of the series."""
    if len(groups) == 1:
        return [replace(groups[0], label="")]
    result: list[Group] = []
    several_patients = len({group.images[0].text("PatientID") for group in groups}) > 1
    several_series = len({group.images[0].text("SeriesInstanceUID") for group in groups}) > 1
    taken: Counter[str] = Counter()
    for group in groups:
        image, parts = group.images[0], []
        if several_patients:
            parts.append(image.text("PatientID"))
        if several_series:
            parts.append(image.text("SeriesDescription") or _series_number(image))
        label = joined(*parts, group.label) or "scan"
        taken[label] += 1
        result.append(replace(group, label=label if taken[label] == 1 else f"{label}-{taken[label]}"))
    return result


def _series_number(image: DicomImage) -> str:
    number = image.values.get("SeriesNumber")
    return f"series{number:g}" if isinstance(number, float) else ""
