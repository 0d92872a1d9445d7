"""Which of the files that were found are channels of one scan: T1 and T2 of a patient, CT and PET."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from medssl.core.errors import UserError
from medssl.core.io.left_out import LeftOut
from medssl.core.io.scan_file import ChannelFile, ScanFile, SearchResult
from medssl.core.io.scan_names import names_of_channels, tell_apart

Case = tuple[str, ...]
"""Folders and name of a scan, without what names its channel."""


def group_channels(found: SearchResult, names: Sequence[str], for_network: bool = False) -> SearchResult:
    """Put files together that are channels of one scan.

    A file belongs to a channel if its name ends or begins with that of the channel, as in p1_t1.nii.gz,
    sub-01_T1w.nii.gz and t1-p1.nrrd, or is the same (p1/t1.nii.gz), or if one of its folders has that name
    (t1/p1.nii.gz). Scans whose channels are known already (nnU-Net's "_0000") get these names.

    Args:
        found: Result of `find_scans`.
        names: Names of the channels, the first one defines the grid.
        for_network: The names are those that a network takes, and not what somebody calls these channels: one
            that has another name is not taken for one of them.

    Raises:
        UserError: "no-match" if no file belongs to one of the channels.
    """
    cases: dict[Case, dict[str, ScanFile]] = {}
    left_out, scans = LeftOut(), []
    for scan in found.scans:
        match = _case_and_channel(scan, names)
        if scan.further:
            scans.append(_renamed(scan, names, for_network))
        elif match is None:
            left_out.add("file of none of these channels", scan.path)
        elif match[1] in cases.setdefault(match[0], {}):
            left_out.add("second file of a channel", scan.path)
        else:
            cases[match[0]][match[1]] = scan
    has = {name for channels in cases.values() for name in channels}
    missing = [name for name in names if name not in has and not scans]
    if missing and for_network:
        raise UserError(
            f"The network takes {', '.join(names)}, and no name of a file or folder has {missing[0]} at its "
            f"end, as in patient1_{missing[0]}.nii.gz; name the files after their channels.",
            code="no-match",
        )
    if missing:
        raise UserError(
            f"No name of a file or folder has the channel {missing[0]} at its end, as in "
            f"patient1_{missing[0]}.nii.gz; write the channels as the files are called.",
            code="no-match",
        )
    for (case, channels), name in zip(cases.items(), tell_apart(list(cases)), strict=True):
        first, *further = (channel for channel in names if channel in channels)
        files = tuple(ChannelFile(channel, channels[channel].path) for channel in further)
        scans.append(replace(channels[first], stem=case[-1], name=name, channel=first, further=files))
    return replace(found, scans=tuple(scans), left_out=(*found.left_out, *left_out.lines()))


def choose_volumes(scan: ScanFile, volumes: Sequence[int], names: Sequence[str]) -> ScanFile:
    """Take volumes of a 4D file as the channels of its scan, or one of them as the scan.

    Args:
        scan: The file.
        volumes: Their numbers, from 0.
        names: Their names; empty for those of `names_of_channels`.

    Raises:
        UserError: "bad-volumes" if there are not as many names.
    """
    if names and len(names) != len(volumes):
        raise UserError(
            f"--channels has {len(names)} names, --volumes {len(volumes)} numbers; name each volume once.",
            code="bad-volumes",
        )
    known = names_of_channels(scan.path.parent, max(volumes) + 1)
    first, *further = names or [known[volume] for volume in volumes]
    files = (ChannelFile(name, scan.path, volume) for name, volume in zip(further, volumes[1:], strict=True))
    channel = first if further else ""
    return replace(scan, volume=volumes[0], channel=channel, further=tuple(files))


def volume_numbers(text: str) -> list[int]:
    """Numbers of volumes as they are written: "0,2".

    Raises:
        UserError: "bad-volumes".
    """
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,6}", word) for word in words) or len(set(map(int, words))) < len(words):
        raise UserError(
            f"{text!r} are no numbers of volumes; write them from 0 on, as in 0,2.", code="bad-volumes"
        )
    return [int(word) for word in words]


def _renamed(scan: ScanFile, names: Sequence[str], for_network: bool) -> ScanFile:
    """A scan of several channels with those of these names, or with these names for its channels."""
    own = [ChannelFile(scan.channel, scan.path, scan.volume), *scan.further]
    by_name = {each.channel.lower(): each for each in own}
    if all(name.lower() in by_name for name in names):
        own = [by_name[name.lower()] for name in names]
    elif for_network and (len(names) != len(own) or not all(name.isdecimal() for name in by_name)):
        raise UserError(
            f"{scan.name} has the channels {', '.join(each.channel for each in own)}, and the network takes "
            f"{', '.join(names)}; call them so in dataset.json (channel_names), or in the names of the "
            f"files, as in patient1_{names[0]}.nii.gz.",
            code="no-match",
        )
    elif len(names) != len(own):
        raise UserError(
            f"{scan.name} has the channels {', '.join(each.channel for each in own)}; give some of these "
            f"names, or {len(own)} new ones.",
            code="no-match",
        )
    first, *further = (replace(each, channel=name) for each, name in zip(own, names, strict=True))
    return replace(scan, path=first.path, volume=first.volume, channel=first.channel, further=tuple(further))


def _case_and_channel(scan: ScanFile, names: Sequence[str]) -> tuple[Case, str] | None:
    """The scan and the channel that a file belongs to; None if its path names no channel."""
    *folders, stem = (*scan.path.absolute().parent.parts[1:], scan.stem)
    longest_first = sorted(names, key=len, reverse=True)  # t1ce before t1
    for name in longest_first:
        if stem.lower() == name.lower() and folders:
            return tuple(folders), name
        escaped = re.escape(name)
        match = re.fullmatch(rf"(.+?)[_\-. ]+{escaped}|{escaped}[_\-. ]+(.+)", stem, re.IGNORECASE)
        if match:
            return (*folders, match[1] or match[2]), name
    for name in longest_first:
        for place in reversed(range(len(folders))):
            if folders[place].lower() == name.lower():
                return (*folders[:place], *folders[place + 1 :], stem), name
    return None
