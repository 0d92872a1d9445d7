"""Read DICOM series and enhanced multi-frame files as volumes.

SimpleITK decodes the pixels. The geometry is computed here from the position of every slice, because ITK uses
the first two only and assumes an even, rectangular stack: it would silently straighten a tilted gantry and
close the gap of a missing slice.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk

from medssl.core.errors import UserError
from medssl.core.files import check_readable
from medssl.core.io.dicom_headers import DicomImage, Slice, full_header
from medssl.core.io.dicom_sort import SAME_STEP_MM, Group, sort_folder
from medssl.core.io.dicom_split import SAME_POSITION_MM
from medssl.core.io.geometry import RAS_TO_LPS, Geometry
from medssl.core.io.intensity import DICOM_MODALITIES
from medssl.core.io.reading import Reading

MAX_DEVIATION = 0.1
"""Largest allowed distance of a slice from its position in an even stack, in slice spacings."""


@dataclass(frozen=True)
class Stack:
    """Order and positions of the slices of a series, without pixels."""

    images: tuple[DicomImage, ...]
    """One per file."""
    order: np.ndarray
    """(slices,) index of the frame, counted through all files, of each slice along the stack."""
    affine: np.ndarray
    """(4, 4) from (column, row, slice along the stack) to patient coordinates in mm (right, anterior,
    superior)."""

    @property
    def files(self) -> list[Path]:
        """One per image."""
        return [image.file for image in self.images]

    @cached_property
    def headers(self) -> list[pydicom.Dataset]:
        """The whole headers, one per file."""
        return [full_header(file) for file in self.files]

    @property
    def modality(self) -> str:
        """The element Modality, such as "CT"; empty if it is missing."""
        return self.images[0].text("Modality")

    @property
    def multi_frame(self) -> bool:
        """Whether slices are frames of a file."""
        return any(len(image.slices) > 1 for image in self.images)


def read_series(path: Path) -> Reading:
    """Read the scan in a folder, or the one that a file belongs to.

    A tilted gantry gives a sheared affine; nothing is resampled.

    Returns:
        Rescaled grey values, float32 (I, J, K) = (column, row, slice), their geometry and modality.

    Raises:
        UserError: "unreadable", "unsupported", "several-series", "not-scalar", "not-3d", "uneven-slices",
            "bad-geometry".
    """
    stack = read_stack(path)
    array = _pixels(path, stack).T
    return Reading(array, Geometry.of(stack.affine, array.shape), DICOM_MODALITIES.get(stack.modality, ""))


def read_stack(path: Path) -> Stack:
    """Read headers and slice order as `read_series` does, with the same errors, but no pixels."""
    group = _group(path)
    order, affine = _grid(path, [item for image in group.images for item in image.slices])
    return Stack(group.images, order, RAS_TO_LPS @ affine)


def are_parts(groups: Sequence[Group]) -> bool:
    """Whether several groups of a series lie between or beside each other and form one even stack."""
    try:
        _grid(
            groups[0].files[0], [item for group in groups for image in group.images for item in image.slices]
        )
    except UserError:
        return False
    return True


def _group(path: Path) -> Group:
    """The scan that a path stands for.

    Raises:
        UserError: "unreadable", "unsupported", "several-series", "not-scalar", "not-3d".
    """
    is_folder = path.is_dir()
    sorting = sort_folder(path if is_folder else path.parent)
    if is_folder:
        groups = sorting.scans or sorting.groups
        if len(groups) > 1:
            names = ", ".join(f"{group.label} ({group.files[0].name}, ...)" for group in groups[:5])
            raise UserError(
                f"{path} holds {len(groups)} scans: {names}; choose one file of the scan that you want.",
                code="several-series",
            )
        group = groups[0] if groups else None
    else:
        group = sorting.group_of(path)
    if group is not None and (len(group.files) == 1 or not sorting.damaged):
        return group
    candidates = [path] if path in sorting.reasons else [*sorting.damaged, *sorting.reasons]
    for file in candidates:
        raise sorting.reasons[file]
    raise UserError(f"{path} holds no DICOM series; choose the folder with its files.", code="unreadable")


def _grid(path: Path, slices: Sequence[Slice]) -> tuple[np.ndarray, np.ndarray]:
    """Order of the slices along the stack, (slices,), and its affine in LPS coordinates, (4, 4)."""
    if len(slices) < 2:
        raise UserError(
            f"{path} is a single slice; choose a series with the slices of a volume.", code="not-3d"
        )
    column_step, row_step = slices[0].column_step, slices[0].row_step
    normal = np.cross(column_step, row_step)
    if not np.linalg.norm(normal) > 0:
        raise UserError(f"{path} has a slice axis of length zero; export it again.", code="bad-geometry")
    normal /= np.linalg.norm(normal)
    for item in slices:  # sorting has compared the first frame of each file
        if not np.allclose(
            [item.column_step, item.row_step], [column_step, row_step], rtol=0, atol=SAME_STEP_MM
        ):
            raise UserError(
                f"{path} has frames of different orientation; export each orientation as a series.",
                code="several-series",
            )
    origins = np.array([item.origin for item in slices])
    heights = origins @ normal
    order = np.argsort(heights, kind="stable")
    _check_even(path, origins[order], heights[order])
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = column_step, row_step
    affine[:3, 2] = (origins[order[-1]] - origins[order[0]]) / (len(slices) - 1)
    affine[:3, 3] = origins[order[0]]
    return order, affine


def _check_even(path: Path, origins: np.ndarray, heights: np.ndarray) -> None:
    gaps = np.diff(heights)
    median = float(np.median(gaps))
    if gaps.min() <= SAME_POSITION_MM:
        raise UserError(
            f"{path} has several images at the same position (time points, echoes or duplicated files); "
            "export one of them as a separate series.",
            code="not-3d",
        )
    even = np.linspace(origins[0], origins[-1], len(origins))
    if np.linalg.norm(origins - even, axis=1).max() > MAX_DEVIATION * median:
        raise UserError(
            f"{path} has slices {gaps.min():.4g} to {gaps.max():.4g} mm apart (some are missing or unevenly "
            "spaced); export the complete series or resample it to even spacing.",
            code="uneven-slices",
        )


def _pixels(path: Path, stack: Stack) -> np.ndarray:
    """Rescaled grey values, float32 (slice, row, column), along the stack."""
    files = stack.files
    try:
        with ExitStack() as cleanup:
            if any(map(_is_inverted, stack.images)):
                scratch = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="medssl-")))
                files = [_not_inverted(image, scratch / str(n)) for n, image in enumerate(stack.images)]
            if not stack.multi_frame:
                return _decoded([files[number] for number in stack.order])
            return np.concatenate([_decoded([file]) for file in files])[stack.order]
    except RuntimeError as error:
        for file in files:
            check_readable(file, error)
        raise UserError(
            f"{path} holds pixels that cannot be decoded ({str(error).strip().splitlines()[-1][:120]}); "
            "export the series again, uncompressed.",
            code="unreadable",
        ) from error


def _decoded(files: Sequence[Path]) -> np.ndarray:
    """Grey values, float32 (slice, row, column), of files with one frame each, or of one file."""
    names: Any = [str(file) for file in files]
    image = sitk.ReadImage(names if len(names) > 1 else names[0], sitk.sitkFloat32, imageIO="GDCMImageIO")
    return sitk.GetArrayFromImage(image)


def _is_inverted(image: DicomImage) -> bool:
    return image.text("PhotometricInterpretation") == "MONOCHROME1"


def _not_inverted(image: DicomImage, copy: Path) -> Path:
    """The file, or a copy of it that says MONOCHROME2.

    MONOCHROME1 only means that low values are shown white, but ITK inverts the stored values.
    """
    if not _is_inverted(image):
        return image.file
    dataset = pydicom.dcmread(image.file, force=True)
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.save_as(copy)
    return copy
