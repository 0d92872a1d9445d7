"""Names and colours of labels: from the label file itself, or from a table beside it.

In the file: the segments of 3D Slicer's .seg.nrrd, and the label table that TotalSegmentator and Connectome
Workbench add to NIfTI headers. Beside it, under its name: BIDS (.tsv), ITK-SNAP (.txt, .label), FreeSurfer
and 3D Slicer (.ctbl; -label_ColorTable.ctbl of exported segments). In its folder: the only label descriptions
of ITK-SNAP (.label). There or in the folder above: the dataset.json of the Medical Segmentation Decathlon and
of nnU-Net.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medssl.core.errors import UserError
from medssl.core.json_files import read_json

MAX_HEADER = 1 << 20
"""Longest NRRD header that is searched for segments, in bytes."""
SNAP_LINE = re.compile(r'\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+\S+\s+\d\s+\d\s+"(.*)"\s*$')
COLOR_TABLE_LINE = re.compile(r'\s*(\d+)\s+("[^"]*"|\S+)\s+(\d+)\s+(\d+)\s+(\d+)\s+\d+\s*$')
TABLE_ENTRY = re.compile(r"<Label\s([^>]*)>\s*(?:<!\[CDATA\[)?(.*?)(?:\]\]>)?\s*</Label>", re.DOTALL)


@dataclass(frozen=True)
class Segment:
    """A label as its file describes it.

    Attributes:
        value: Value of its voxels.
        name: Its name; empty if the file has none.
        color: "#rrggbb"; empty if the file has none.
        layer: Index of the channel that holds it, in formats whose segments may overlap; else None.
    """

    value: int
    name: str = ""
    color: str = ""
    layer: int | None = None


@dataclass(frozen=True)
class LabelTable:
    """What a label file says of its labels.

    Attributes:
        names: {value: name}, where the file has names.
        colors: {value: "#rrggbb"}, where the file has colours.
    """

    names: dict[int, str] = field(default_factory=dict)
    colors: dict[int, str] = field(default_factory=dict)


def nrrd_segments(path: Path) -> tuple[Segment, ...]:
    """Segments in the header of a .seg.nrrd file; empty for any other NRRD file."""
    with path.open("rb") as file:
        header = file.read(MAX_HEADER).partition(b"\n\n")[0].partition(b"\r\n\r\n")[0]
    entries = dict(
        re.findall(r"^(Segment\d+_\w+):=(.*?)\s*$", header.decode("utf-8", "replace"), re.MULTILINE)
    )
    numbers = sorted({int(key[7 : key.index("_")]) for key in entries})

    def entry(number: int, name: str, default: object = "") -> str:
        return str(entries.get(f"Segment{number}_{name}", default))

    # Files from before Slicer 4.11 have a layer of zeros and ones for each segment and do not say so.
    return tuple(
        Segment(
            int(entry(number, "LabelValue", 1)),
            entry(number, "Name").strip(),
            _color([float(part) for part in entry(number, "Color").split()], 1.0),
            int(entry(number, "Layer", number)),
        )
        for number in numbers
    )


def nifti_segments(header: Any) -> tuple[Segment, ...]:
    """Segments of the label table in the extensions of a NIfTI header of nibabel; empty for none."""
    segments = []
    for extension in getattr(header, "extensions", ()):
        content = extension.get_content()
        text = content.decode("utf-8", "replace") if isinstance(content, bytes) else str(content)
        for attributes, name in TABLE_ENTRY.findall(text):
            values = dict(re.findall(r'(\w+)="([^"]*)"', attributes))
            if values.get("Key", "").isdecimal():
                channels = [float(values.get(key, "nan")) for key in ("Red", "Green", "Blue")]
                segments.append(Segment(int(values["Key"]), name.strip(), _color(channels, 1.0)))
    return tuple(segments)


def segments_beside(path: Path) -> tuple[Segment, ...]:
    """Segments of the table that lies beside a label file; empty for none, or for one that cannot be read."""
    stem = path.name.partition(".")[0]
    readers = ((".tsv", _tsv), (".txt", _snap), (".label", _snap), (".ctbl", _color_table),
               ("_ColorTable.ctbl", _color_table), ("-label_ColorTable.ctbl", _color_table))  # fmt: skip
    tables = [(path.with_name(stem + suffix), parse) for suffix, parse in readers]
    descriptions = list(path.parent.glob("*.label"))
    if len(descriptions) == 1:
        tables.append((descriptions[0], _snap))
    for table, parse in tables:
        if table.is_file() and (segments := tuple(parse(_lines(table)))):
            return segments
    for folder in (path.parent, path.parent.parent):
        try:
            names = label_names(read_json(folder / "dataset.json"))
        except (UserError, ValueError):
            continue
        return tuple(Segment(value, name) for value, name in names.items() if value)
    return ()


def label_names(description: Any) -> dict[int, str]:
    """Names of labels, sorted by value, from a dataset.json.

    Its "labels" are {"0": "background", "1": "liver"} (MSD) or {"background": 0, "liver": 1} (nnU-Net).

    Raises:
        ValueError: It has no such entry.
    """
    labels = description.get("labels") if isinstance(description, Mapping) else None
    if not isinstance(labels, Mapping):
        raise ValueError("no labels")
    pairs = [(key, value) if key.isdecimal() else (value, key) for key, value in labels.items()]
    if not all(str(value).isdecimal() for value, _ in pairs):
        raise ValueError("labels without a number")
    return {int(value): str(name) for value, name in sorted(pairs, key=lambda pair: int(pair[0]))}


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8-sig", errors="replace").splitlines()


def _tsv(lines: list[str]) -> Iterable[Segment]:
    for row in csv.DictReader(lines, delimiter="\t"):
        value, color = str(row.get("index") or ""), str(row.get("color") or "").lower()
        if value.isdecimal():
            valid = re.fullmatch(r"#[0-9a-f]{6}", color)
            yield Segment(int(value), str(row.get("name") or "").strip(), color if valid else "")


def _snap(lines: list[str]) -> Iterable[Segment]:
    for line in lines:
        if match := SNAP_LINE.match(line):
            value, *channels = map(int, match.groups()[:4])
            yield Segment(value, match[5].strip(), _color(channels, 255.0))


def _color_table(lines: list[str]) -> Iterable[Segment]:
    for line in lines:
        if match := COLOR_TABLE_LINE.match(line):
            channels = [int(part) for part in match.groups()[2:]]
            yield Segment(int(match[1]), match[2].strip('"').replace("_", " "), _color(channels, 255.0))


def _color(channels: list[float] | list[int], full: float) -> str:
    """ "#rrggbb" of three channels from 0 to `full`; empty if they are not that."""
    if len(channels) != 3 or not all(0 <= channel <= full for channel in channels):
        return ""
    return "#" + "".join(f"{round(255 * channel / full):02x}" for channel in channels)
