"""Read label files for a scan: whole numbers on its grid, with the names and colours that the file has.

Accepted are integer volumes, floating-point volumes whose values are nearly whole numbers, one channel for
each label, folders with one mask for each structure, the segmentations of 3D Slicer, DICOM-SEG and RTSTRUCT
(dicom_labels.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from medssl.core.errors import UserError
from medssl.core.io.geometry import Geometry
from medssl.core.io.label_grid import on_grid
from medssl.core.io.label_names import LabelTable, Segment, nifti_segments, nrrd_segments, segments_beside
from medssl.core.io.mask_folder import masks_in, merge_masks
from medssl.core.io.volume import NIFTI, catch_memory_error, read_voxels, suffix_of

MAX_ROUNDING = 0.02
"""Largest difference of a value from a whole number: scaled integers and interpolation leave such."""
DTYPES = (np.uint8, np.uint16, np.int32, np.int64)
"""Types of label arrays; the first one that holds all values is used."""


@dataclass(frozen=True)
class LabelVolume:
    """A label volume.

    Attributes:
        array: Labels in canonical order, one of `DTYPES` (Z, Y, X); 0 is background.
        geometry: Its grid.
        path: The file.
        names: {value: name}, where the file has names.
        colors: {value: "#rrggbb"}, where the file has colours.
        notes: What was done to the content of the file, for the user: "NaN taken as 0".
        is_segmentation: Its format, .seg.nrrd, DICOM-SEG or RTSTRUCT, covers a part of the scan only and
            numbers its segments anew in each file.
    """

    array: np.ndarray
    geometry: Geometry
    path: Path
    names: dict[int, str] = field(default_factory=dict)
    colors: dict[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    is_segmentation: bool = False

    @property
    def table(self) -> LabelTable:
        """What the file says of its labels."""
        return LabelTable(self.names, self.colors)

    def values(self) -> list[int]:
        """The labels that occur, sorted, without 0."""
        return label_values(self.array)


@catch_memory_error
def read_labels(path: Path, scan: Geometry | None = None) -> LabelVolume:
    """Read a label file.

    Args:
        path: A file; a folder with one mask for each structure, named after it; or a folder with one
            DICOM-SEG or RTSTRUCT file or one DICOM series.
        scan: Grid of the scan; the labels are padded or cropped to it. None leaves them on their own grid,
            which contours have not.

    Returns:
        The labels with names, colours and notes.

    Raises:
        UserError: "not-labels", "other-grid", "no-grid", and those of `read_scan` except "not-finite" and
            "constant".

    Example:
        >>> labels = read_labels(Path("liver.seg.nrrd"), project.scans["liver"].geometry)
        >>> labels.names
        {1: 'liver', 2: 'tumor'}
    """
    path = Path(path)
    if masks := masks_in(path):
        return _read_masks(path, masks, scan)
    from medssl.core.io.dicom_labels import dicom_labels_in, read_dicom_labels  # which needs this

    file = dicom_labels_in(path)
    labels = read_dicom_labels(file, scan) if file else _read_file(path)
    if scan is None:
        return labels
    array, notes = on_grid(str(path), labels.array, labels.geometry, scan, labels.is_segmentation)
    return replace(labels, array=array, geometry=scan, notes=(*labels.notes, *notes))


def label_values(labels: np.ndarray) -> list[int]:
    """The labels that occur, sorted, without 0.

    Args:
        labels: Labels, one of `DTYPES` (any shape).
    """
    return [value for value in count_values(labels)[0].tolist() if value != 0]


def count_values(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values that occur, sorted, and how often.

    Args:
        labels: Labels, one of `DTYPES` (any shape).

    Returns:
        Values and counts, integers (N,) each.
    """
    if labels.dtype not in (np.uint8, np.uint16):
        return np.unique(labels, return_counts=True)
    counts = np.bincount(labels.reshape(-1))  # faster than sorting
    values = np.flatnonzero(counts)
    return values, counts[values]


def whole_numbers(array: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Values of a label file as non-negative whole numbers.

    Args:
        array: Values of a file (any shape).

    Returns:
        The same values as one of `DTYPES` (same shape), and notes.

    Raises:
        ValueError: They are not labels; the message says why, and continues "its values ...".
    """
    notes: list[str] = []
    if array.dtype.kind == "f":
        missing = np.isnan(array)
        if missing.any():
            array = np.where(missing, 0, array)
            notes.append("NaN taken as 0")
        rounded = np.rint(array)
        with np.errstate(invalid="ignore"):
            errors = np.abs(array - rounded)
        worst = int(errors.argmax())
        if not errors.flat[worst] <= MAX_ROUNDING:  # also NaN, of infinite values
            raise ValueError(f"are not whole numbers, such as {array.flat[worst]:g}")
        if errors.flat[worst] > 0:
            notes.append("values rounded to whole numbers")
        array = rounded
    low, high = array.min(), array.max()
    if low < 0:
        raise ValueError(f"go down to {low:g}, and labels are not negative")
    if high > np.iinfo(np.int64).max // 2:
        raise ValueError(f"go up to {high:g}")
    dtype = next(dtype for dtype in DTYPES if high <= np.iinfo(dtype).max)
    return array.astype(dtype, copy=False), tuple(notes)


def checked_labels(name: str, array: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Like `whole_numbers`, with an error for the user.

    Args:
        name: File or layer, for the message.
        array: Its values (any shape).

    Raises:
        UserError: "not-labels".
    """
    try:
        return whole_numbers(array)
    except ValueError as error:
        raise UserError(
            f"{name} is not a label volume: its values {error}; choose one with whole numbers from 0 on.",
            code="not-labels",
        ) from None


def as_labels(
    path: Path, array: np.ndarray, geometry: Geometry, segments: tuple[Segment, ...] = ()
) -> LabelVolume:
    """Labels from the content of a file.

    Args:
        path: The file, for messages.
        array: Its values, (I, J, K), or with a channel for each label (I, J, K, C).
        geometry: Its grid.
        segments: Its segments, if it has such.

    Raises:
        UserError: "not-labels".
    """
    array, notes = checked_labels(str(path), array)
    if array.ndim == 4:
        array, segments, overlap = _merge(path, array, segments)
        notes += overlap_note(overlap)
    return LabelVolume(
        geometry.to_canonical(array),
        geometry,
        path,
        {segment.value: segment.name for segment in segments if segment.name},
        {segment.value: segment.color for segment in segments if segment.color},
        notes,
    )


def overlap_note(voxels: int) -> tuple[str, ...]:
    """The note about voxels in several segments; none if there are no such voxels."""
    return (f"{voxels} voxels are in several segments and belong to the last of them",) if voxels else ()


def _read_masks(folder: Path, files: list[Path], scan: Geometry | None) -> LabelVolume:
    if len(files) == 1:
        return read_labels(files[0], scan)
    array, geometry, names, notes, overlap = merge_masks(files, lambda path: read_labels(path, scan))
    return LabelVolume(array, geometry, folder, names, notes=(*notes, *overlap_note(overlap)))


def _read_file(path: Path) -> LabelVolume:
    reading = read_voxels(path, labels=True)
    segments = segments_of(path)
    is_segmentation = any(segment.layer is not None for segment in segments)
    labels = as_labels(path, reading.array, reading.geometry, segments)
    return replace(labels, notes=(*reading.notes, *labels.notes), is_segmentation=is_segmentation)


def segments_of(path: Path) -> tuple[Segment, ...]:
    """Segments that a file describes in its header, or a table beside it; empty for none."""
    segments: tuple[Segment, ...] = ()
    if suffix_of(path) in (".nrrd", ".nhdr"):
        segments = nrrd_segments(path)
    elif suffix_of(path) in NIFTI and suffix_of(path) not in (".mgz", ".mgh"):
        from medssl.core.io.nifti import header_of

        segments = nifti_segments(header_of(path))
    return segments or segments_beside(path)


def _merge(
    path: Path, array: np.ndarray, segments: tuple[Segment, ...]
) -> tuple[np.ndarray, tuple[Segment, ...], int]:
    """Lay channels together: each is a label, or holds segments; where they overlap, the last one is kept.

    Args:
        path: The file, for the message.
        array: Channels (I, J, K, C).
        segments: The segments, if the file describes them.

    Returns:
        Labels (I, J, K), the segments with the values they have there, and the number of overlapping voxels.

    Raises:
        UserError: "not-labels" if channels without segments are not masks of zeros and ones.
    """
    channels = array.shape[-1]
    described = [segment for segment in segments if segment.layer is not None and segment.layer < channels]
    if described:
        is_unique = len({segment.value for segment in described}) == len(described)
        numbered = [
            segment if is_unique else replace(segment, value=number)
            for number, segment in enumerate(described, 1)
        ]
    else:
        if array.max() > 1:
            raise UserError(
                f"{path} is not a label volume: its {channels} channels are not masks of 0 and 1; choose a "
                "single volume.",
                code="not-labels",
            )
        # Where every voxel is in exactly one channel, the first of them is the background.
        has_background = bool((array.sum(-1, dtype=np.int64) == 1).all())
        described = [Segment(1, layer=layer) for layer in range(int(has_background), channels)]
        known = {segment.value: segment for segment in segments}
        numbered = [known.get(number, Segment(number)) for number in range(1, len(described) + 1)]
    result = np.zeros(array.shape[:3], np.uint16)
    overlap = 0
    for segment, target in zip(described, numbered, strict=True):
        mask = array[..., segment.layer] == segment.value
        overlap += int(np.count_nonzero(result[mask]))
        result[mask] = target.value
    return whole_numbers(result)[0], tuple(numbered), overlap
