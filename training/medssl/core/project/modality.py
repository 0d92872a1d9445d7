"""Which modality a scan is taken as: as user or file say, else as the grey values of all scans suggest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medssl.core.errors import UserError
from medssl.core.io.intensity import AIR_HU, MODALITIES, infer_modality, normalise
from medssl.core.io.volume import Volume, fingerprint, read_scan
from medssl.core.project.channels import number_of
from medssl.core.project.contents import Scan

if TYPE_CHECKING:
    from medssl.core.project.project import Project

VALUES, FILE, USER, PROJECT, UNSURE = "", "file", "user", "project", "unsure"
"""Where the modality of a scan is from, see `Scan.modality_source`."""
REASONS = {
    VALUES: "by its values",
    FILE: "stated in its file",
    USER: "as set",
    PROJECT: "like the other scans",
    UNSURE: "uncertain",
}


def check_modality(modality: str) -> str:
    """The modality in lower case.

    Raises UserError ("bad-modality").
    """
    if modality.lower() not in MODALITIES:
        raise UserError(
            f"{modality!r} is not a modality; choose one of {', '.join(MODALITIES)}.", code="bad-modality"
        )
    return modality.lower()


def modality_name(scan: Scan) -> str:
    """Short name of the modality of a scan, with a question mark if it is uncertain."""
    return scan.modality.upper() + "?" * (scan.modality_source == UNSURE)


def describe_modality(scan: Scan) -> str:
    """The modality of a scan and where it is from, e.g. "CT (stated in its file)"."""
    return f"{MODALITIES.get(scan.modality, scan.modality)} ({REASONS.get(scan.modality_source, '')})"


def assumption(scan: Scan) -> str:
    """A sentence if the modality of a scan is assumed rather than known; empty otherwise."""
    name = MODALITIES.get(scan.modality, scan.modality)
    if scan.modality_source == UNSURE:
        return f"It is taken as {name}, but its values fit CT and MR; --modality says which it is."
    if scan.modality_source == PROJECT:
        return f"Its values fit CT and MR; it is taken as {name}, like the scans that it belongs to."
    return ""


def usual_modality(scans: Iterable[Scan]) -> str:
    """The modality of the scans whose modality is known; empty if there are none or they differ."""
    known = {scan.modality for scan in scans if scan.modality_source in (VALUES, FILE, USER)}
    return known.pop() if len(known) == 1 else ""


def choose_modality(volume: Volume, requested: str, usual: str) -> tuple[str, str]:
    """Modality of a new scan.

    Args:
        volume: The scan.
        requested: What the user says; empty for nothing.
        usual: Modality of the other scans, which decides where the values fit several; empty for none.

    Returns:
        The modality, and where it is from.

    Raises:
        UserError: "bad-modality".
    """
    if requested:
        return check_modality(requested), USER
    if volume.modality:
        return volume.modality, FILE
    inferred = infer_modality(volume.array if volume.missing is None else volume.array[~volume.missing])
    if inferred.certain:
        return inferred.modality, VALUES
    return (usual, PROJECT) if usual else (inferred.modality, UNSURE)


def overrules(source: str, former: str) -> bool:
    """Whether a modality replaces that of a scan that the project has already.

    Args:
        source: Where the modality is from.
        former: Where the scan's modality is from.
    """
    return source == USER or (source == FILE and former in (PROJECT, UNSURE))


def normalised(volume: Volume, modality: str) -> np.ndarray:
    """The image of a scan in the project, float16 (Z, Y, X)."""
    array = volume.array
    if modality == "ct" and volume.missing is not None:
        array = np.where(volume.missing, np.float32(AIR_HU), array)
    return normalise(array, modality).astype(np.float16)


def set_modality(
    project: Project, scan_id: str, modality: str, source: str = USER, channel: str = ""
) -> None:
    """Take a scan, or one of its channels, as another modality; its image is normalised anew from its file.

    Args:
        project: The project.
        scan_id: Id of the scan.
        modality: One of `intensity.MODALITIES`.
        source: Where the modality is from.
        channel: Name of a channel after the first; empty for the first.

    Raises:
        UserError: "bad-modality", "no-channel", "changed" if the file is not as it was when it was added,
            "disk-full", "not-writable", "read-only", and those of `read_scan`.
    """
    scan, modality = project.scans[scan_id], check_modality(modality)
    scan = scan.part(number_of(scan, channel))
    volume = read_scan(Path(scan.source), scan.volume)
    if fingerprint(volume) != scan.sha256:
        raise UserError(
            f"{scan.source} has changed since it was added, so {scan.title} stays as it is; restore the "
            "file, or add it as a new scan.",
            code="changed",
        )
    project.change_modality(scan_id, modality, source, volume, channel)


def settle_modalities(project: Project, scan_ids: Iterable[str]) -> None:
    """Take scans whose modality is uncertain as that of the other scans, or as most of them.

    Args:
        project: The project.
        scan_ids: Scans that were just added. Others may be in use: a person decides about them.

    Raises:
        UserError: Those of `set_modality`.
    """
    known = usual_modality(project.scans.values())
    counts = Counter(scan.modality for scan in project.scans.values())
    all_unsure = all(scan.modality_source == UNSURE for scan in project.scans.values())
    usual = counts.most_common(1)[0][0] if counts and all_unsure else known
    source = PROJECT if known else UNSURE
    for scan in [project.scans[scan_id] for scan_id in scan_ids]:
        if scan.modality_source != UNSURE or not usual:
            continue
        if scan.modality != usual:
            set_modality(project, scan.id, usual, source)
        elif known:
            project.change_modality(scan.id, usual, source)
