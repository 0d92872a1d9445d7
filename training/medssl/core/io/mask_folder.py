"""A folder with one mask for each structure, named after it, as TotalSegmentator writes: liver.nii.gz, ..."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medssl.core.errors import UserError
from medssl.core.io.volume import ITK, NIFTI, has_header_beside, stem_of, suffix_of

if TYPE_CHECKING:
    from medssl.core.io.geometry import Geometry
    from medssl.core.io.labels import LabelVolume


def masks_in(folder: Path) -> list[Path]:
    """The label files of a folder, sorted; empty if it is no folder or has none, as one of DICOM files."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file()
        and not path.name.startswith(".")
        and suffix_of(path) in (*NIFTI, *ITK)
        and not has_header_beside(path)
    )


def merge_masks(
    files: list[Path], read: Callable[[Path], LabelVolume]
) -> tuple[np.ndarray, Geometry, dict[int, str], tuple[str, ...], int]:
    """Lay masks together as labels from 1 on, in their order; where they overlap, the last one is kept.

    Args:
        files: The masks.
        read: Reads one of them.

    Returns:
        Labels, uint16 (Z, Y, X), their grid, {label: name of the file}, the notes of all files, and the
        number of voxels in several masks.

    Raises:
        UserError: "not-labels" for a file with several labels, "other-grid", and those of `read`.
    """
    result, overlap, notes = None, 0, []
    for label, path in enumerate(files, 1):
        mask = read(path)
        if len(mask.values()) > 1:
            raise UserError(
                f"{path} has several labels and lies beside other label files; leave in {path.parent} that "
                "file alone, or one mask for each structure.",
                code="not-labels",
            )
        if result is None:
            result, geometry = np.zeros(mask.array.shape, np.uint16), mask.geometry
        elif not geometry.same_grid(mask.geometry):
            raise UserError(
                f"{path} has another grid than {files[0].name} beside it; export both on the scan's grid.",
                code="other-grid",
            )
        inside = mask.array > 0
        overlap += int(np.count_nonzero(result[inside]))
        result[inside] = label
        notes += [note for note in mask.notes if note not in notes]
    assert result is not None, "no files"
    names = {label: stem_of(path) for label, path in enumerate(files, 1)}
    return result, geometry, names, tuple(notes), overlap
