"""What medssl init prints about the modality of scans."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from medssl.core.errors import UserError
from medssl.core.project.contents import Scan
from medssl.core.project.modality import (
    UNSURE,
    check_modality,
    describe_modality,
    settle_modalities,
    usual_modality,
)
from medssl.core.shell import command

if TYPE_CHECKING:
    from rich.console import Console

    from medssl.core.io.scan_file import ScanFile
    from medssl.core.project.project import Project

MAX_NAMES = 5
"""Names of scans on a line."""


def check_requested(modality: str, scans: Sequence[ScanFile]) -> None:
    """Check --modality, which is for the scans that are named with it.

    Raises:
        UserError: "bad-modality".
    """
    if modality:
        check_modality(modality)
        if not scans:
            raise UserError(f"Name the scans that --modality {modality} is for.", code="bad-modality")


def settle(project: Project, former: dict[str, Scan], screen: Console) -> None:
    """Decide about modalities once all scans are known, and print what that means for the former ones."""
    from medssl.cli.terminal import warn

    settle_modalities(project, [scan_id for scan_id in project.scans if scan_id not in former])
    usual = usual_modality(project.scans.values())
    for scan in former.values():
        for was, now in zip(scan.parts, project.scans[scan.id].parts, strict=False):
            title = scan.title if was is scan else f"{scan.title}, channel {was.channel},"
            if now.modality != was.modality:
                text = f"{title} is taken as {now.modality.upper()} now, no longer as {was.modality.upper()}."
            elif was is scan and now.modality_source == UNSURE and usual not in ("", now.modality):
                correct = command("init", project.root, scan.source, "--modality", usual)
                text = (
                    f"{title} was taken as {now.modality.upper()}, but the other scans are {usual.upper()}; "
                    f"to change it: {correct}"
                )
            else:
                continue
            warn(screen, text)


def modality_lines(scans: Iterable[Scan]) -> list[str]:
    """Lines that list scans by their modality and where it is from."""
    groups: dict[str, list[Scan]] = {}
    for scan in scans:
        groups.setdefault(describe_modality(scan), []).append(scan)
    lines = []
    for description, members in groups.items():
        names = ", ".join(scan.title for scan in members[:MAX_NAMES])
        more = f" and {len(members) - MAX_NAMES} more" if len(members) > MAX_NAMES else ""
        advice = "; the values fit CT and MR, --modality says which" * (members[0].modality_source == UNSURE)
        lines.append(f"{description}{advice}: {names}{more}")
    return lines
