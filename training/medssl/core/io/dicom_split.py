"""Splits parallel DICOM images that share positions into scans: phases, echoes, ..."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from medssl.core.io.dicom_headers import DicomImage

SAME_POSITION_MM = 1e-3
"""Slices that are closer than this lie at the same position."""
SPLITTERS = {
    "EchoTime": "echo", "EffectiveEchoTime": "echo", "EchoNumbers": "echo", "DiffusionBValue": "b",
    "TemporalPositionIdentifier": "phase", "TemporalPositionIndex": "phase", "ImageType": "type",
    "StackID": "stack", "InversionTime": "inversion", "FlipAngle": "angle", "KVP": "kv",
    "ConvolutionKernel": "kernel", "NominalPercentageOfCardiacPhase": "phase", "AcquisitionNumber": "phase",
    "TriggerTime": "phase", "AcquisitionTime": "phase", "ContentTime": "phase",
}  # fmt: skip
"""Elements that may tell images at the same position apart, and what the scans are called then."""


class Part(NamedTuple):
    """Images with one slice at each position, and what tells them from the other parts, if there are any."""

    images: list[DicomImage]
    label: str


def grouped(images: Iterable[DicomImage], key: Callable[[DicomImage], Any]) -> list[list[DicomImage]]:
    """Lists of images with the same key, in the order of their first images."""
    result: dict[Any, list[DicomImage]] = defaultdict(list)
    for image in images:
        result[key(image)].append(image)
    return list(result.values())


def position_numbers(images: Sequence[DicomImage]) -> list[tuple[int, ...]]:
    """For each image, the numbers of the positions of its slices along the normal of the stack."""
    first = images[0].slices[0]
    normal = np.cross(first.column_step, first.row_step)
    normal /= np.linalg.norm(normal) or 1.0
    heights = np.array([item.origin @ normal for image in images for item in image.slices])
    order = np.argsort(heights)
    numbers = np.empty(len(heights), int)
    numbers[order] = np.concatenate([[0], np.cumsum(np.diff(heights[order]) > SAME_POSITION_MM)])
    ends = np.cumsum([len(image.slices) for image in images])
    return [tuple(part.tolist()) for part in np.split(numbers, ends[:-1])]


def repeats_of(images: Sequence[DicomImage]) -> int:
    """Largest number of slices at one position."""
    return max(Counter(number for numbers in position_numbers(images) for number in numbers).values())


def split(images: Sequence[DicomImage]) -> list[Part]:
    """Split images that share positions by what tells them apart.

    An element splits them if it explains why so many images lie at a position; times, which differ from slice
    to slice, do not. What nothing splits stays together, and reading it says why that is no volume.
    """
    repeats = repeats_of(images)
    if repeats == 1:
        return [Part(list(images), "")]
    for name, word in SPLITTERS.items():
        pieces = grouped(images, partial(_value, name))
        if 1 < len(pieces) <= repeats and max(map(repeats_of, pieces)) * len(pieces) == repeats:
            pieces.sort(key=partial(_rank, name))
            return [
                Part(part.images, joined(f"{word}{number}", part.label))
                for number, piece in enumerate(pieces, 1)
                for part in split(piece)
            ]
    positions = position_numbers(images)
    if all(len(numbers) > 1 and len(set(numbers)) == max(map(len, positions)) for numbers in positions):
        return [Part([image], "") for image in images]  # each file is a volume
    return _split_by_number(images, repeats)


def _value(name: str, image: DicomImage) -> Any:
    return image.values.get(name, "")


def _rank(name: str, images: Sequence[DicomImage]) -> tuple[float, str]:
    """Sort key of images with the same value."""
    value = _value(name, images[0])
    return (value, "") if isinstance(value, float) else (0.0, str(value))


def joined(*labels: str) -> str:
    """The labels that are not empty, joined by "-"."""
    return "-".join(filter(None, labels))


def _split_by_number(images: Sequence[DicomImage], repeats: int) -> list[Part]:
    """The n-th image at each position, by the number of the image, makes the n-th scan."""
    positions: dict[tuple[int, ...], list[DicomImage]] = defaultdict(list)
    for image, numbers in zip(images, position_numbers(images), strict=True):
        positions[numbers].append(image)
    for at_position in positions.values():
        instances = {image.values.get("InstanceNumber") for image in at_position}
        if len(instances) < repeats or None in instances:
            return [Part(list(images), "")]
        at_position.sort(key=lambda image: _rank("InstanceNumber", [image]))
    parts = zip(*positions.values(), strict=True)
    return [
        Part(sorted(part, key=lambda image: image.file), f"part{number}")
        for number, part in enumerate(parts, 1)
    ]
