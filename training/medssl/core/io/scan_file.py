"""Scans that were found among files and folders, with their channels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ChannelFile:
    """A further channel of a scan that was found, such as T2 beside T1."""

    channel: str
    path: Path
    volume: int | None = None
    """Number of the volume in a 4D file."""


@dataclass(frozen=True)
class ScanFile:
    """A scan that was found."""

    path: Path
    """For `read_scan`: a file, or the folder of a DICOM series that is alone in it."""
    stem: str
    """Name of the file or DICOM folder, with what tells it from other scans in that folder."""
    name: str
    """The same, with its folders where another scan that was found has that name."""
    given: bool
    """Whether the file itself was given, not a folder with it: it is tried even if it looks like a mask."""
    channel: str = ""
    """Name of its first channel, where it has several."""
    further: tuple[ChannelFile, ...] = ()
    """Its channels after the first."""
    volume: int | None = None
    """Number of the volume of the first channel in a 4D file."""


@dataclass(frozen=True)
class SearchResult:
    """Scans, sorted by path, and what was left out, one line for each kind."""

    scans: tuple[ScanFile, ...]
    left_out: tuple[str, ...]
    missing: int = 0
    """Number of given paths that do not exist or cannot be opened; `left_out` names them."""
