"""Reads folders of scans and reference labels in the layout of the Medical Segmentation Decathlon (MSD).

    imagesTr/case_001.nii.gz    scans with labels
    labelsTr/case_001.nii.gz    their labels, under the same name (nnU-Net: scans end in _0000)
    imagesUn/...                scans without labels (optional)
    dataset.json                the names of the classes

The format: Antonelli et al., "The Medical Segmentation Decathlon", Nature Communications 13, 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from medssl.core.errors import UserError
from medssl.core.io.label_names import label_names
from medssl.core.json_files import read_json
from medssl.core.labels.pairing import pair_labels
from medssl.core.palette import class_color
from medssl.core.project.project import LabelClass

TEST_EVERY = 5
"""By default, every fifth of the sorted cases is a test case."""

T = TypeVar("T")


@dataclass(frozen=True)
class Dataset:
    """Contents of a data set folder, sorted by file name."""

    name: str
    classes: tuple[LabelClass, ...]
    pairs: tuple[tuple[Path, Path], ...]
    """(scan, its reference labels)."""
    unlabelled: tuple[Path, ...]


def read_dataset(folder: Path) -> Dataset:
    """List the scans, labels and classes of a folder in MSD layout without reading voxels.

    Scans in imagesTr without a label file count as unlabelled, like those in imagesUn.

    Raises:
        UserError: "missing", "unreadable" or "not-a-dataset".
    """
    folder = Path(folder)
    for name in ("imagesTr", "labelsTr", "dataset.json"):
        if not (folder / name).exists():
            raise UserError(
                f"{folder} is not a data set in MSD layout because it has no {name}; "
                "give a folder with imagesTr, labelsTr and dataset.json.",
                code="missing",
            )
    description = read_json(folder / "dataset.json")
    images = {str(path): path for path in _scans_in(folder / "imagesTr")}
    if not _scans_in(folder / "labelsTr"):
        raise UserError(f"{folder / 'labelsTr'} is empty; put the label files there.", code="not-a-dataset")
    pairs = pair_labels(images, folder / "labelsTr")
    if pairs.unused:
        raise UserError(
            f"{pairs.unused[0]} has no scan of the same name in imagesTr; add it or remove the label.",
            code="not-a-dataset",
        )
    for sentence in pairs.ambiguous.values():
        raise UserError(sentence, code="not-a-dataset")
    return Dataset(
        name=str(description.get("name", folder.name)) if isinstance(description, dict) else folder.name,
        classes=_classes(description, folder / "dataset.json"),
        pairs=tuple((images[name], path) for name, path in pairs.files.items()),
        unlabelled=(*(images[name] for name in pairs.missing), *_scans_in(folder / "imagesUn")),
    )


def split(cases: Sequence[T], every: int = TEST_EVERY) -> tuple[tuple[T, ...], tuple[T, ...]]:
    """Split cases into test cases and the rest.

    Args:
        cases: sorted cases.
        every: cases 0, every, 2 * every, ... are test cases.

    Returns:
        (test cases, other cases).
    """
    test = tuple(cases[::every])
    rest = tuple(case for position, case in enumerate(cases) if position % every)
    return test, rest


def _scans_in(folder: Path) -> list[Path]:
    """Files of a folder, sorted by name, without hidden ones: archives from macOS contain "._case.nii.gz"."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _classes(description: Any, path: Path) -> tuple[LabelClass, ...]:
    """The classes that a dataset.json names."""
    try:
        names = label_names(description)
    except ValueError:
        raise UserError(
            f'{path} has no usable "labels"; write them like {{"0": "background", "1": "liver"}}.',
            code="not-a-dataset",
        ) from None
    return tuple(
        LabelClass(id=value, name=name, color=class_color(value)) for value, name in names.items() if value
    )
