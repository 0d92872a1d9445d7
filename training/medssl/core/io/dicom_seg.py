"""Write segmentations as DICOM-SEG that refers to the images of the source series (DICOM PS3.3 A.51).

highdicom writes the object; this module orders the slices by position and adds header fields that anonymised
and old files lack. Every class that occurs is a binary segment with one frame per image, including empty
frames, ascending along the slice normal: simple readers such as ITK, which take the position of the first
frame and count on, then see the grid of the series. A DICOM Label Map (PS3.3 A.51, since 2024) has one frame
per image, of segment numbers: it is smaller with many classes, but ITK does not read it yet.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pydicom
from pydicom.valuerep import DSfloat

from medssl import __version__
from medssl.core.errors import UserError
from medssl.core.io.dicom import Stack, read_stack
from medssl.core.io.geometry import Geometry

if TYPE_CHECKING:
    from medssl.core.project.contents import LabelClass

AlgorithmType = Literal["MANUAL", "SEMIAUTOMATIC", "AUTOMATIC"]
"""Segment Algorithm Type: drawn by a person, by a person and a network, by a network."""
SCHEME = "99MEDSSL"
"""Coding scheme of the project's classes; "99" marks private schemes."""
MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
"""Attributes that must be present but may be empty (type 2)."""


def dicom_seg_bytes(
    labels_zyx: np.ndarray,
    geometry: Geometry,
    source: Path,
    classes: Sequence[LabelClass],
    algorithm_type: AlgorithmType,
    label_map: bool = False,
) -> bytes:
    """Encode canonical labels as DICOM-SEG.

    Args:
        labels_zyx: Class ids in canonical order, uint8 (Z, Y, X).
        geometry: Geometry of the scan as it was read from `source`.
        source: Folder of the series, or one of its files.
        classes: Those that occur become segments 1, 2, ... in this order.
        algorithm_type: Who made the segmentation.
        label_map: Encode them as a DICOM Label Map.

    Returns:
        Content of the file.

    Raises:
        UserError: "empty" if no class occurs, "not-referable" if required header fields are missing,
            "changed" if the series now has another grid, and those of reading the series.
    """
    stack = read_stack(source)
    first = stack.headers[0]
    if Geometry.of(stack.affine, (first.Columns, first.Rows, len(stack.order))) != geometry:
        raise changed(source)
    _check_referable(source, stack)
    classes = [item for item in classes if (labels_zyx == item.id).any()]
    if not classes:
        raise UserError(
            f"The segmentation of {source} has no voxel of any class, and a DICOM-SEG needs a segment; "
            "annotate or predict the scan, or choose .nii.gz.",
            code="empty",
        )
    planes = geometry.to_source(_segment_numbers(labels_zyx, classes)).T  # (slice, row, column)
    content = io.BytesIO()
    try:
        segments = [_description(number, item, algorithm_type) for number, item in enumerate(classes, 1)]
        segmentation = _segmentation(stack, planes, segments, label_map)
        _sort_frames(segmentation)
        segmentation.save_as(content)
    except UserError:
        raise
    except Exception as error:  # missing header fields make the library raise all kinds of exceptions
        raise UserError(
            f"{source} lacks header fields that a DICOM-SEG requires ({error}); choose .nii.gz or .nrrd.",
            code="not-referable",
        ) from error
    return content.getvalue()


def _check_referable(source: Path, stack: Stack) -> None:
    """Raise UserError ("not-referable") for several series or enhanced files, which no object can name."""
    several_series = len({image.text("SeriesInstanceUID") for image in stack.images}) > 1
    if several_series or (len(stack.images) > 1 and stack.images[0].enhanced):
        what = "slices of several series" if several_series else "an enhanced series in several files"
        raise UserError(
            f"{source} holds {what}, to which a DICOM-SEG cannot refer; choose .nii.gz or .nrrd.",
            code="not-referable",
        )


def changed(source: Path) -> UserError:
    """The error for a series that is no longer the one that was segmented."""
    return UserError(
        f"{source} has changed since it was added, so a DICOM-SEG would refer to other images; restore the "
        "series or choose .nii.gz or .nrrd.",
        code="changed",
    )


def _segment_numbers(labels: np.ndarray, classes: Sequence[LabelClass]) -> np.ndarray:
    """Class ids as segment numbers, uint8 (Z, Y, X): DICOM requires 1, 2, ... without gaps."""
    number = np.zeros(256, np.uint8)
    number[[item.id for item in classes]] = np.arange(1, len(classes) + 1)
    return number[labels]


def _description(number: int, item: LabelClass, algorithm_type: AlgorithmType) -> Any:
    """Description of a segment: name, id as a code of the private scheme, and colour of the class."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    name = item.name.replace("\\", "/")  # a backslash separates values in DICOM
    network = hd.AlgorithmIdentificationSequence(
        name="napari-medssl", family=codes.DCM.ArtificialIntelligence, version=__version__
    )
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name,
        # The classes have no code in a medical terminology; "tissue" is true of all of them.
        segmented_property_category=codes.SCT.Tissue,
        segmented_property_type=hd.sr.CodedConcept(str(item.id), SCHEME, name),
        algorithm_type=algorithm_type,
        algorithm_identification=None if algorithm_type == "MANUAL" else network,
        display_color=hd.color.CIELabColor.from_string(item.color),
    )


def _segmentation(stack: Stack, planes: np.ndarray, segments: Sequence[Any], label_map: bool) -> Any:
    """The DICOM object from segment numbers, uint8 (slice along the stack, row, column)."""
    import highdicom as hd

    if stack.multi_frame:
        images = [_complete(stack.headers[0], stack)]
        frames = np.empty_like(planes)
        frames[stack.order] = planes
    else:
        images = [_complete(stack.headers[number], stack) for number in stack.order]
        if len({image.SOPInstanceUID for image in images}) < len(images):
            raise ValueError("several images share one SOP Instance UID")
        frames = planes
    kinds = hd.seg.SegmentationTypeValues
    return hd.seg.Segmentation(
        source_images=images,
        pixel_array=np.ascontiguousarray(frames),
        segmentation_type=kinds.LABELMAP if label_map else kinds.BINARY,
        segment_descriptions=segments,
        series_instance_uid=hd.UID(),
        series_number=1000,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="napari-medssl",
        manufacturer_model_name="napari-medssl",
        software_versions=__version__,
        device_serial_number="0",
        omit_empty_frames=False,
        series_description="Segmentation (napari-medssl)",
        content_qualification=hd.ContentQualificationValues.RESEARCH,
        specific_character_set="ISO_IR 192",
    )


def _complete(header: pydicom.Dataset, stack: Stack) -> pydicom.Dataset:
    """Add the header fields that highdicom reads.

    Raises:
        ValueError: A required field is missing that must not be empty.
    """
    first = stack.headers[0]
    for name in ("SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID"):
        if not header.get(name):
            raise ValueError(f"no {name}")
    for name in MAY_BE_EMPTY:
        if name not in header:
            setattr(header, name, "")
    if not header.get("FrameOfReferenceUID"):
        # Unknown relative to other series, but the same for all images of this one.
        header.FrameOfReferenceUID = first.SeriesInstanceUID
    if stack.multi_frame:
        _add_shared_groups(header)
        return header
    # The slices are parallel to a thousandth of a millimetre, but may be rounded differently.
    header.ImageOrientationPatient, header.PixelSpacing = first.ImageOrientationPatient, first.PixelSpacing
    if not header.get("SliceThickness"):
        header.SliceThickness = DSfloat(float(np.linalg.norm(stack.affine[:3, 2])), auto_format=True)
    return header


def _add_shared_groups(header: pydicom.Dataset) -> None:
    """Copy orientation and spacing of the first frame of an enhanced file to the shared functional groups."""
    if not header.get("SharedFunctionalGroupsSequence"):
        header.SharedFunctionalGroupsSequence = [pydicom.Dataset()]
    shared = header.SharedFunctionalGroupsSequence[0]
    for name in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        if name not in shared:
            setattr(shared, name, header.PerFrameFunctionalGroupsSequence[0][name].value)


def _sort_frames(segmentation: Any) -> None:
    """Sort the frames of each segment in ascending order along the normal; highdicom writes them descending.

    The standard allows any order, because each frame has its own position. ITK ignores these positions.
    """
    count, size = int(segmentation.NumberOfFrames), segmentation.Rows * segmentation.Columns
    frames = list(segmentation.PerFrameFunctionalGroupsSequence)
    plane = segmentation.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    normal = np.cross(*np.array(plane.ImageOrientationPatient, float).reshape(2, 3))
    is_map = segmentation.SegmentationType == "LABELMAP"
    if is_map or len(segmentation.SegmentSequence) == 1:  # of all frames, or stored once for all
        segment = [1] * count
    else:
        segment = [frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber for frame in frames]
    positions = np.array([frame.PlanePositionSequence[0].ImagePositionPatient for frame in frames], float)
    order = np.lexsort((positions @ normal, np.array(segment)))
    segmentation.PerFrameFunctionalGroupsSequence = [frames[number] for number in order]
    packed = np.frombuffer(segmentation.PixelData, np.uint8)
    if is_map:  # a byte per pixel, as there are at most 254 classes
        packed = packed[: count * size].reshape(count, size)[order].ravel()
    elif size % 8 == 0:
        packed = packed[: count * size // 8].reshape(count, -1)[order].ravel()
    else:  # frames start within a byte
        bits = np.unpackbits(packed, count=count * size, bitorder="little").reshape(count, size)
        packed = np.packbits(bits[order].ravel(), bitorder="little")
    content = packed.tobytes()
    segmentation.PixelData = content + b"\0" * (len(content) % 2)
