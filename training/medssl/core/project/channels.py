"""Channels of scans: T1 and T2, CT and PET. Which of them a training takes, and which scans have them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from medssl.core.errors import UserError
from medssl.core.io.volume import Volume
from medssl.core.project.contents import Scan

MODALITY_NAMES = {"ct": "ct", "mr": "mr", "mri": "mr", "pt": "pt", "pet": "pt", "us": "us"}
"""Modalities by names of channels that state one."""


def modality_of_name(channel: str, volume: Volume) -> str:
    """The modality that a channel's name states, unless its file states one; empty for neither."""
    return "" if volume.modality else MODALITY_NAMES.get(channel, "")


def channel_names(scans: Iterable[Scan]) -> tuple[str, ...]:
    """Names of all channels that scans have, the first channel's first; empty if each has only one.

    Example:
        >>> channel_names(project.scans.values())
        ('t1', 't2')
    """
    scans = list(scans)
    if not any(scan.channels for scan in scans):
        return ()
    first = next((scan.channel for scan in scans if scan.channel), "")
    named = [name for scan in scans for name in scan.channel_names if name]
    return tuple(dict.fromkeys([first, *named]))


def number_of(scan: Scan, channel: str, first: bool = False) -> int:
    """Number of a channel of a scan.

    Args:
        scan: The scan.
        channel: Name of the channel; empty for the first.
        first: The channel is the first that a network takes: a scan's own first channel is that one, too, if
            one of both has no name.

    Raises:
        UserError: "no-channel" if the scan lacks it.
    """
    if not channel:
        return 0
    if not _lacks(scan, channel, 0 if first else 1):
        return scan.channel_names.index(channel) if channel in scan.channel_names else 0
    raise UserError(
        f"{scan.title} has no channel {channel}, only {describe_channels(scan)}; add it to the scan, or "
        "choose the channels to train on (--set channel_names=...).",
        code="no-channel",
    )


def lacks(scan: Scan, channels: Sequence[str]) -> str:
    """The first of these channels that a scan lacks; empty for none."""
    return next((name for place, name in enumerate(channels) if _lacks(scan, name, place)), "")


def _lacks(scan: Scan, channel: str, place: int) -> bool:
    return channel not in scan.channel_names and (place > 0 or bool(channel and scan.channel))


def available(scan: Scan, channels: Sequence[str]) -> tuple[str, ...]:
    """Those of a network's channels that a scan has."""
    return tuple(name for place, name in enumerate(channels) if not _lacks(scan, name, place))


def having(scans: Iterable[Scan], channels: Sequence[str]) -> list[str]:
    """Ids of the scans that have all of these channels, in their order."""
    return [scan.id for scan in scans if not lacks(scan, channels)]


def left_out(scans: Iterable[Scan], channels: Sequence[str]) -> str:
    """A sentence about the scans that lack one of these channels; empty if none does."""
    lacking = {scan.title: lacks(scan, channels) for scan in scans}
    names = [f"{title} has no {channel}" for title, channel in lacking.items() if channel]
    if not names:
        return ""
    more = f" (and {len(names) - 1} more scans lack a channel)" if len(names) > 1 else ""
    return f"{names[0]} and is left out{more}; the network takes {', '.join(filter(None, channels))}."


def describe_channels(scan: Scan) -> str:
    """The channels of a scan as a text, e.g. "t1, t2"; the modality stands for a first one without a name."""
    return ", ".join([scan.channel or scan.modality.upper(), *scan.channel_names[1:]])
