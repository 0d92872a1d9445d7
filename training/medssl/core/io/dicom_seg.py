"""Segmentations as DICOM-SEG that refer to the images of the series they were made on (DICOM PS3.3 A.51).

highdicom writes the object; this module gives it the slices in the order in which each lies, and what it asks
of headers that anonymised and old files lack. Every class is a binary segment with a frame for each image,
empty ones too, frames ascending along the normal of the slices: so plain readers such as ITK, which take the
first frame's place and count on, see the series' own grid, and no viewer has to guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pydicom
from pydicom.valuerep import DSfloat

from medssl import __version__
from medssl.core.errors import UserError
from medssl.core.files import write_whole
from medssl.core.io.dicom import Stack, read_stack
from medssl.core.io.geometry import Geometry

if TYPE_CHECKING:
    from medssl.core.project.contents import LabelClass

How = Literal["MANUAL", "SEMIAUTOMATIC", "AUTOMATIC"]
"""Who drew it: a person, a person and a network, a network (Segment Algorithm Type)."""
SCHEME = "99MEDSSL"
"""Coding scheme of the project's own classes; "99" marks schemes that are nobody's standard."""
LONGEST_TEXT = 64
"""Characters that DICOM allows for a label."""
MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
"""What every object of a study has to carry, be it empty."""


def write_dicom_seg(
    path: Path,
    labels_zyx: np.ndarray,
    geometry: Geometry,
    source: Path,
    classes: Sequence[LabelClass],
    how: How,
) -> None:
    """Write canonical labels as DICOM-SEG, whole or not at all.

    labels_zyx: unsigned (Z, Y, X) with class ids; geometry: the scan's, as it was read from `source`, the
    folder or a file of its series; classes: become segments 1, 2, ... in this order, empty ones too.

    Raises UserError ("not-referable") where the series' headers do not allow it, "changed" where the series
    lies on another grid by now, and what reading the series or writing the file raises.
    """
    stack = read_stack(source)
    first = stack.headers[0]
    if Geometry.of(stack.affine, (first.Columns, first.Rows, len(stack.order))) != geometry:
        raise changed(source)
    planes = geometry.to_source(_segment_numbers(labels_zyx, classes)).T  # (slice, row, column)
    try:
        segments = [_described(number, item, how) for number, item in enumerate(classes, 1)]
        segmentation = _segmentation(stack, planes, segments)
        _ascending(segmentation)
    except UserError:
        raise
    except Exception as error:  # what headers lack makes the library raise just about anything
        raise UserError(
            f"{source} lacks what a DICOM-SEG has to say about its series ({error}); choose .nii.gz or .nrrd "
            "instead.",
            code="not-referable",
        ) from error
    write_whole(path, lambda file: segmentation.save_as(file))


def changed(source: Path) -> UserError:
    """What to say where a series is no longer the one that was segmented."""
    return UserError(
        f"{source} has changed since it was added, so a DICOM-SEG would refer to other images; put the "
        "series back or choose .nii.gz or .nrrd.",
        code="changed",
    )


def _segment_numbers(labels: np.ndarray, classes: Sequence[LabelClass]) -> np.ndarray:
    """Ids as the numbers of the segments: DICOM wants these to be 1, 2, ... without a gap."""
    number = np.zeros(256, np.uint8)
    number[[each.id for each in classes]] = np.arange(1, len(classes) + 1)
    return number[labels]


def _described(number: int, item: LabelClass, how: How) -> Any:
    """A segment's description: the class's name, its id as a code of our own, its colour."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    name = item.name.strip()[:LONGEST_TEXT] or f"Class {item.id}"
    network = hd.AlgorithmIdentificationSequence(
        name="napari-medssl", family=codes.DCM.ArtificialIntelligence, version=__version__
    )
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name,
        # What a class is in terms of a medical dictionary nobody has said; "tissue" is true of all.
        segmented_property_category=codes.SCT.Tissue,
        segmented_property_type=hd.sr.CodedConcept(str(item.id), SCHEME, name),
        algorithm_type=how,
        algorithm_identification=None if how == "MANUAL" else network,
        display_color=hd.color.CIELabColor.from_string(item.color),
    )


def _segmentation(stack: Stack, planes: np.ndarray, segments: Sequence[Any]) -> Any:
    """The object, from segment numbers (slice along the stack, row, column)."""
    import highdicom as hd

    if stack.multi_frame:
        images = [_complete(stack.headers[0], stack)]
        frames = np.empty_like(planes)
        frames[stack.order] = planes
    else:
        images = [_complete(stack.headers[number], stack) for number in stack.order]
        if len({image.SOPInstanceUID for image in images}) < len(images):
            raise ValueError("several images have one SOP Instance UID")
        frames = planes
    return hd.seg.Segmentation(
        source_images=images,
        pixel_array=np.ascontiguousarray(frames),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
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
    """The header with everything that highdicom reads from it.

    Raises ValueError where something is missing that cannot be left empty.
    """
    first = stack.headers[0]
    for name in ("SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID"):
        if not header.get(name):
            raise ValueError(f"no {name}")
    for name in MAY_BE_EMPTY:
        if name not in header:
            setattr(header, name, "")
    if not header.get("FrameOfReferenceUID"):
        # Nobody can say that it lies where another series does; within the series it holds all the same.
        header.FrameOfReferenceUID = first.SeriesInstanceUID
    if stack.multi_frame:
        _share(header)
        return header
    # They are parallel to a thousandth of a millimetre, but may be rounded differently.
    header.ImageOrientationPatient, header.PixelSpacing = first.ImageOrientationPatient, first.PixelSpacing
    if not header.get("SliceThickness"):
        header.SliceThickness = DSfloat(float(np.linalg.norm(stack.affine[:3, 2])), auto_format=True)
    return header


def _share(header: pydicom.Dataset) -> None:
    """Say for all frames of an enhanced file at once what each says by itself: they are parallel."""
    if not header.get("SharedFunctionalGroupsSequence"):
        header.SharedFunctionalGroupsSequence = [pydicom.Dataset()]
    shared = header.SharedFunctionalGroupsSequence[0]
    for name in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        if name not in shared:
            setattr(shared, name, header.PerFrameFunctionalGroupsSequence[0][name].value)


def _ascending(segmentation: Any) -> None:
    """Put the frames of each segment in ascending order along the normal; highdicom has them descending.

    The standard leaves the order free, each frame says itself where it lies. ITK takes it as it comes.
    """
    count, size = int(segmentation.NumberOfFrames), segmentation.Rows * segmentation.Columns
    frames = list(segmentation.PerFrameFunctionalGroupsSequence)
    plane = segmentation.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    normal = np.cross(*np.array(plane.ImageOrientationPatient, float).reshape(2, 3))
    if len(segmentation.SegmentSequence) == 1:  # said once for all frames
        segment = [1] * count
    else:
        segment = [frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber for frame in frames]
    places = np.array([frame.PlanePositionSequence[0].ImagePositionPatient for frame in frames], float)
    order = np.lexsort((places @ normal, np.array(segment)))
    segmentation.PerFrameFunctionalGroupsSequence = [frames[number] for number in order]
    packed = np.frombuffer(segmentation.PixelData, np.uint8)
    if size % 8 == 0:
        packed = packed[: count * size // 8].reshape(count, -1)[order].ravel()
    else:  # frames begin in the middle of a byte
        bits = np.unpackbits(packed, count=count * size, bitorder="little").reshape(count, size)
        packed = np.packbits(bits[order].ravel(), bitorder="little")
    content = packed.tobytes()
    segmentation.PixelData = content + b"\0" * (len(content) % 2)
