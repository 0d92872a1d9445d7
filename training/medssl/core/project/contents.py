"""Contents of project.json: classes and scans."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from medssl.core import migrations
from medssl.core.errors import UserError
from medssl.core.io.geometry import Geometry
from medssl.core.jobs import from_json
from medssl.core.json_files import parse_json
from medssl.core.project.names import as_channel_name, check_class_name, valid_class_name

FORMAT_VERSION = 2
PLAIN_VERSION = 1
"""Version of projects whose scans have one channel: earlier programs can read them."""
OPTIONAL = (
    "reference", "modality_source", "notes", "image_sha256", "name", "volume", "channel", "channels",
)  # fmt: skip
"""Fields of a scan that are left out where they are empty: versions that do not know them read the rest."""


@dataclass(frozen=True)
class LabelClass:
    """A class; `id` (1..254) is also its value in exported files."""

    id: int
    name: str
    color: str
    """ "#rrggbb"."""
    values: tuple[int, ...] = ()
    """Other values that mean this class in label files without names, such as 500 or 255."""


@dataclass(frozen=True)
class Channel:
    """A further image of a scan on its grid, such as T2 beside T1; the fields are those of `Scan`."""

    channel: str
    source: str
    sha256: str
    modality: str
    modality_source: str = ""
    notes: tuple[str, ...] = ()
    image_sha256: str = ""
    volume: int | None = None


@dataclass(frozen=True)
class Scan:
    """A scan of the project; `source` is the file or DICOM folder from which it was read."""

    id: str
    source: str
    sha256: str
    """Fingerprint of voxels and grid, independent of the file format."""
    geometry: Geometry
    modality: str
    held_out: bool = False
    """Excluded from all training, with or without labels, and used for evaluation."""
    reference: str = ""
    """Label file against which predictions are evaluated; never used for training."""
    modality_source: str = ""
    """Where it is from: "" (the grey values), "file", "user", "project" (the other scans, if the values fit
    several) or "unsure" (suggested by the grey values)."""
    notes: tuple[str, ...] = ()
    """What was tolerated in the file, one sentence each."""
    image_sha256: str = ""
    """SHA-256 of the file with the normalised image; empty where a former version added the scan."""
    name: str = ""
    """What a person has called it; empty until then. Its files and results go by the id, which stays."""
    volume: int | None = None
    """Number of the volume in a 4D file; None for a file with one volume."""
    channel: str = ""
    """Name of the first channel, e.g. "t1"; empty where nobody has named it."""
    channels: tuple[Channel, ...] = ()
    """The channels after the first, see ARCHITECTURE.md."""

    @property
    def title(self) -> str:
        """The name that a person reads: what the scan was called, or else its id."""
        return self.name or self.id

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of all channels, the first one's first."""
        return (self.channel, *(each.channel for each in self.channels))

    def part(self, number: int) -> Scan:
        """The scan as if channel `number` were its only one; the scan itself for the first, 0."""
        return replace(self, **vars(self.channels[number - 1]), channels=()) if number else self

    @property
    def parts(self) -> tuple[Scan, ...]:
        """`part` of all channels."""
        return tuple(self.part(number) for number in range(len(self.channel_names)))

    def with_part(self, number: int, part: Scan) -> Scan:
        """The inverse of `part`: the scan with channel `number` replaced."""
        if not number:
            return part
        channel = Channel(**{each.name: getattr(part, each.name) for each in fields(Channel)})
        return replace(self, channels=(*self.channels[: number - 1], channel, *self.channels[number:]))

    @property
    def image_fingerprint(self) -> str:
        """Fingerprint of the normalised images, which depend on the modality, too."""
        first = f"{self.sha256}-{self.modality}" if self.modality_source else self.sha256
        return "+".join([first, *(f"{each.channel}-{each.sha256}-{each.modality}" for each in self.channels)])

    @property
    def image_hashes(self) -> str:
        """`image_sha256` of all channels."""
        return "+".join([self.image_sha256, *(each.image_sha256 for each in self.channels)])


@dataclass(frozen=True)
class Contents:
    """The contents of project.json."""

    classes: tuple[LabelClass, ...] = ()
    scans: tuple[Scan, ...] = ()
    former_view_state: dict[str, Any] = field(default_factory=dict)
    """State of the viewer that a former version has left here; it is kept as it is."""


def parse_contents(content: bytes, path: Path, known: Mapping[str, Scan]) -> Contents:
    """The contents of project.json from its bytes.

    Args:
        content: The bytes.
        path: The file, for messages.
        known: {scan id: scan} as read before; those that have not changed are taken over, which is faster.

    Raises:
        UserError: "newer-version", "unreadable"; both name `path`.
    """
    value = parse_json(content, path)
    version = value.get("version") if isinstance(value, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UserError(
            f"{path} was written by a newer version of medssl; update this one to open it.",
            code="newer-version",
        )
    try:
        if version not in (PLAIN_VERSION, FORMAT_VERSION):
            raise ValueError(f"version {version!r}")
        classes = check_classes(_classes(value["classes"], value.get("label_values", {})))
        scans = tuple(_scan(each, known) for each in value["scans"])
        return Contents(classes, scans, migrations.view_state(value))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, UserError) as error:
        raise UserError(
            f"{path} is damaged ({error}); restore it from a backup, the annotations and runs beside it are "
            "intact.",
            code="unreadable",
        ) from error


def to_json(contents: Contents) -> dict[str, Any]:
    """The contents as project.json has them."""
    has_channels = any(scan.channels or scan.channel or scan.volume is not None for scan in contents.scans)
    return {
        "version": FORMAT_VERSION if has_channels else PLAIN_VERSION,
        "classes": [{"id": each.id, "name": each.name, "color": each.color} for each in contents.classes],
        # Not in the classes: versions that know of no such values can read the project, too.
        "label_values": {str(value): each.id for each in contents.classes for value in each.values},
        "scans": [_fields(scan) for scan in contents.scans],
        "view_state": contents.former_view_state,  # former versions need it to open the project
    }


def check_classes(classes: Iterable[LabelClass]) -> tuple[LabelClass, ...]:
    """The classes, if every one has an id of its own in 1..254, a name and a colour.

    Raises UserError ("bad-classes").
    """
    classes = tuple(classes)
    ids = [each.id for each in classes]
    if len(set(ids)) < len(ids) or not all(type(each) is int and 1 <= each <= 254 for each in ids):
        raise UserError(
            f"Class ids {ids} do not work; give each class its own number from 1 to 254.", code="bad-classes"
        )
    for each in classes:
        check_class_name(each.name)
        if not re.fullmatch(r"#[0-9A-Fa-f]{6}", each.color):
            raise UserError(
                f'Class {each.name!r} has the colour {each.color!r}; write it as "#rrggbb".',
                code="bad-classes",
            )
    return classes


def fingerprints(scans: Mapping[str, Scan]) -> dict[str, str]:
    """{scan id: SHA-256 of its voxels and grid}."""
    return {scan.id: scan.sha256 for scan in scans.values()}


def _classes(entries: list[Any], label_values: dict[str, Any]) -> Iterable[LabelClass]:
    """The classes; names that former versions allowed are cut to what is allowed: the project opens."""
    for entry in entries:
        item = from_json(LabelClass, entry, "a class")
        values = tuple(int(key) for key, each in label_values.items() if each == item.id)
        yield replace(item, name=valid_class_name(item.name) or f"Class {item.id}", values=values)


def _fields(scan: Scan) -> dict[str, Any]:
    values = {each.name: getattr(scan, each.name) for each in fields(Scan)}
    values["geometry"] = scan.geometry.to_json()
    values["notes"] = list(scan.notes)
    values["channels"] = [{**vars(each), "notes": list(each.notes)} for each in scan.channels]
    for name in OPTIONAL:
        if values[name] in ("", [], None):
            del values[name]
    return values


def _scan(value: dict[str, Any], known: Mapping[str, Scan]) -> Scan:
    same = known.get(value["id"])
    if same is not None and _fields(same) == value:
        return same
    scan = from_json(Scan, {**value, "geometry": Geometry.from_json(value["geometry"])}, "a scan")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", scan.id):  # ids become file names
        raise ValueError(f"scan id {scan.id!r}")
    names = scan.channel_names
    valid = (name == as_channel_name(name) for name in names[not names[0] :])
    if len(set(names)) < len(names) or not all(valid):
        raise ValueError(f"channels {', '.join(map(repr, names))}")
    return scan
