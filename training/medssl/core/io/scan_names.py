"""Names of scans that were found together, and of their channels."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from medssl.core.errors import UserError
from medssl.core.json_files import read_json
from medssl.core.project.names import as_channel_name

CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
"""End of file names in nnU-Net's image folders: case_0000 is the first channel of the scan "case"."""


def cases_and_channels(folder: str, stems: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Case and channel of each file of nnU-Net's image folders; empty for other folders.

    Numbers of patients look the same (imagesTr/amos_0001.nii.gz). They are told from channels by the first
    channel, which every case has, and by there being more than one case, or one channel only.

    Args:
        folder: Name of the folder.
        stems: File names without extension.
    """
    parts = {stem: CHANNEL.fullmatch(stem) for stem in stems}
    result = {stem: (part["case"], int(part["channel"])) for stem, part in parts.items() if part}
    channels = defaultdict(set)
    for case, channel in result.values():
        channels[case].add(channel)
    is_nnunet = (
        folder.lower().startswith("images")
        and len(result) == len(stems)
        and all(numbers == set(range(len(numbers))) for numbers in channels.values())
        and (len(channels) > 1 or len(stems) == 1)
    )
    return result if is_nnunet else {}


def names_of_channels(folder: Path, count: int) -> list[str]:
    """Names of the channels of nnU-Net's image folders, and of the volumes of the Decathlon's 4D files.

    Args:
        folder: The folder of images, beside which dataset.json lies.
        count: Number of channels.

    Returns:
        The names in dataset.json ("channel_names", formerly "modality"); "0000", "0001", ... without it, and
        where channels cannot have these names (`as_channel_name`).
    """
    numbers = [f"{number:04d}" for number in range(count)]
    try:
        described = read_json(folder.absolute().parent / "dataset.json")
        names = described.get("channel_names") or described["modality"]
        result = [str(names[str(number)]) for number in range(count)]
        distinct = {as_channel_name(name) for name in result}
    except (UserError, KeyError, TypeError, AttributeError):
        return numbers
    return result if len(distinct) == count else numbers


def tell_apart(paths: Sequence[Sequence[str]]) -> list[str]:
    """The shortest end of each path that no other path has, joined by "-"; case does not matter.

    Args:
        paths: Folders and name of each scan.

    Returns:
        One name per path; paths that are the same get numbers.
    """
    names = [""] * len(paths)
    numbered: Counter[tuple[str, ...]] = Counter()
    whole = []
    for path in paths:
        key = tuple(part.lower() for part in path)
        numbered[key] += 1
        number = f"-{numbered[key]}" if numbered[key] > 1 else ""
        whole.append((*path[:-1], f"{path[-1]}{number}"))
    pending, length = list(range(len(paths))), 1
    while pending:
        ends = {index: "-".join(whole[index][-length:]) for index in pending}
        counts = Counter(end.lower() for end in [*names, *ends.values()])
        longest = max(len(whole[index]) for index in pending)
        for index, end in ends.items():
            if counts[end.lower()] == 1 or length >= longest:
                names[index] = end
        pending = [index for index in pending if not names[index]]
        length += 1
    return names
