"""Adds scans from their files, with all of their channels."""

from __future__ import annotations

from collections.abc import Callable

from medssl.core.errors import UserError
from medssl.core.io.scan_file import ScanFile
from medssl.core.project.contents import Scan
from medssl.core.project.folder import GONE
from medssl.core.project.project import Project

STOPS = ("disk-full", "not-writable", "locked", "bad-modality", "read-only", GONE)
"""Codes of errors that would occur for every file."""


def add_scan_file(
    project: Project,
    scan_file: ScanFile,
    refuse: Callable[[UserError], object],
    held_out: bool = False,
    modality: str = "",
    usual: str = "",
) -> Scan:
    """Add a scan from its file, and its further channels.

    Args:
        project: The project.
        scan_file: The scan and its channels.
        refuse: Called with the error of a channel that cannot be used; the others are added.
        held_out: Exclude the scan from all training.
        modality: Modality of the first channel; empty to find it out.
        usual: Modality of the first channel if neither the file nor its values tell.

    Raises:
        UserError: Those of `Project.add_scan`, and of a channel if they would occur for every file.
    """
    masks = not scan_file.given
    scan = project.add_scan(
        scan_file.path, held_out, modality, usual, scan_file.name, masks, scan_file.channel, scan_file.volume
    )
    for channel in scan_file.further:
        try:
            scan = project.add_channel(
                scan.id, channel.path, channel.channel, refuse_masks=masks, volume=channel.volume
            )
        except UserError as error:
            if error.code in STOPS:
                raise
            refuse(error)
    return scan
