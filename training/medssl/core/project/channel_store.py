"""Further channels of a project's scans, such as T2 beside T1: adding, removing and opening them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from medssl.core.errors import UserError
from medssl.core.io.resample import onto_grid
from medssl.core.io.volume import fingerprint
from medssl.core.project.channels import modality_of_name, number_of
from medssl.core.project.contents import Scan
from medssl.core.project.images import write_image
from medssl.core.project.modality import choose_modality
from medssl.core.project.names import as_channel_name
from medssl.core.project.new_image import new_image
from medssl.core.project.scans import ScanStore, read_checked


class ChannelStore(ScanStore):
    """Adds channels to the scans of a project, and opens several at once."""

    def add_channel(
        self,
        scan_id: str,
        path: Path,
        channel: str,
        modality: str = "",
        refuse_masks: bool = False,
        volume: int | None = None,
    ) -> Scan:
        """Add a further channel to a scan, resampled onto its grid where it has another.

        A channel of that name from the same file is replaced.

        Args:
            scan_id: Id of the scan.
            path: A file, a folder with one DICOM series, or one file of a series.
            channel: Its name, e.g. "t2".
            modality: One of `intensity.MODALITIES`; empty to find it out.
            refuse_masks: Raise UserError ("mask") if its voxels are class ids.
            volume: Number of the volume to take from a 4D file.

        Raises:
            UserError: "same-image" if the scan has the image already, "exists" if it has another channel of
                that name, "no-overlap", and those of `add_scan`.
        """
        self.need_writable()
        path, channel = Path(path).absolute(), as_channel_name(channel)
        read = read_checked(path, volume, refuse_masks)
        digest = fingerprint(read)
        self.refresh()
        scan = self.scan(scan_id)
        self.image(scan_id)  # whose shape says that the grid in project.json is not damaged
        read = onto_grid(read, scan.geometry)
        for known in scan.channels:
            same = (known.channel, known.source, known.sha256) == (channel, str(path), digest)
            if same and modality in ("", known.modality):
                self._check_image(scan_id, channel, lambda: read)
                return self.scan(scan_id)
        chosen, source = choose_modality(read, modality or modality_of_name(channel, read), "")
        made = Scan(
            scan_id, str(path), digest, scan.geometry, chosen, modality_source=source, notes=read.notes,
            volume=volume, channel=channel,
        )  # fmt: skip
        with new_image(self.make_folder("scans"), self._has) as image:
            made = replace(made, image_sha256=write_image(image.path, read, chosen))

            def insert(scan: Scan) -> Scan:
                number = _place_of(scan, made)
                image.replace(self.image_file(scan_id, channel))
                return scan.with_part(number, made)

            self._change_scan(scan_id, insert)
        return self.scan(scan_id)

    def remove_channel(self, scan_id: str, channel: str) -> None:
        """Remove a channel after the first from a scan; its source stays.

        Raises:
            UserError: "no-channel", "first-channel".
        """
        if not number_of(self.scan(scan_id), channel):
            raise UserError(
                f"{channel or 'It'} is the first channel of {self.scan(scan_id).title}, on whose grid its "
                "annotation lies; remove the others, or the scan.",
                code="first-channel",
            )

        def without(scan: Scan) -> Scan:
            return replace(scan, channels=tuple(each for each in scan.channels if each.channel != channel))

        self._change_scan(scan_id, without)
        with suppress(OSError):
            self.image_file(scan_id, channel).unlink(missing_ok=True)

    def images(self, scan_id: str, channels: Sequence[str]) -> tuple[np.ndarray, ...]:
        """The images that a network of these channels takes (`Plan.channel_names`), as `image` gives them.

        Raises:
            UserError: "no-channel" if the scan lacks one, and those of `image`.
        """
        scan = self.scan(scan_id)
        numbers = [number_of(scan, name, first=not place) for place, name in enumerate(channels)]
        return tuple(self.image(scan_id, scan.channel_names[number]) for number in numbers or [0])


def _place_of(scan: Scan, made: Scan) -> int:
    """Number of the channel that `made` becomes: a new one, or the one of its name that it replaces.

    Raises:
        UserError: "same-image", "exists".
    """
    for number, part in enumerate(scan.parts):
        if part.channel == made.channel and number and part.source == made.source:
            return number
        if part.sha256 == made.sha256:
            raise UserError(
                f"{made.source} is a channel of {scan.title} already; choose another image.",
                code="same-image",
            )
        if part.channel == made.channel:
            raise UserError(
                f"{scan.title} has a channel {made.channel} already, from {part.source}; choose another "
                "name.",
                code="exists",
            )
    return len(scan.channel_names)
