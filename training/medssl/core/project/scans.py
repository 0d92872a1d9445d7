"""The scans of a project: adding them, their modality, and their normalised images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from medssl.core.errors import UserError
from medssl.core.io.label_detection import looks_like_labels
from medssl.core.io.masks import MASK
from medssl.core.io.resample import onto_grid
from medssl.core.io.volume import Volume, fingerprint, read_scan
from medssl.core.project.channels import modality_of_name, number_of
from medssl.core.project.contents import Scan
from medssl.core.project.images import read_image, read_source, write_image
from medssl.core.project.manifest import Manifest
from medssl.core.project.modality import choose_modality, overrules, usual_modality
from medssl.core.project.names import as_channel_name
from medssl.core.project.new_image import new_image


class ScanStore(Manifest):
    """Adds scans to a project, and opens their images."""

    on_notice: Callable[[str], object]
    """Called with a sentence for the user; in any thread."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.on_notice = lambda text: None

    def add_scan(
        self,
        path: Path,
        held_out: bool = False,
        modality: str = "",
        usual: str = "",
        name: str = "",
        refuse_masks: bool = False,
        channel: str = "",
        volume: int | None = None,
    ) -> Scan:
        """Read, check and normalise a scan, and add it to the project.

        If the project already contains a scan with the same voxels and grid, that scan is returned; a damaged
        image of it is replaced.

        Args:
            path: A file, a folder with one DICOM series, or one file of a series.
            held_out: Exclude the scan from all training; applies to a scan that the project already contains,
                too.
            modality: One of `intensity.MODALITIES`, which overrules the file and applies to a scan that the
                project already contains, too; empty to find it out.
            usual: Modality if neither the file nor its values tell; by default that of the other scans.
            name: What the id is made from (`ScanFile.name`); by default the name of the file or folder.
            refuse_masks: Raise UserError ("mask") if its voxels are class ids.
            channel: Name of this channel, if the scan is to have others (`add_channel`).
            volume: Number of the volume to take from a 4D file.

        Raises:
            UserError: "bad-modality", "bad-channel", "disk-full", "not-writable", "read-only", "locked",
                "mask", and those of `read_scan`.
        """
        self.need_writable()
        path = Path(path).absolute()  # a link is not followed: its target may have no telling name
        channel = as_channel_name(channel) if channel else ""
        read = read_checked(path, volume, refuse_masks)
        digest = fingerprint(read)
        self.refresh()
        modality = modality or modality_of_name(channel, read)
        chosen, source = choose_modality(read, modality, usual or usual_modality(self.scans.values()))
        is_back = False
        if (present := self._known(digest)) is not None:
            self._say_copy(path, present, digest)
        else:
            scan = Scan(
                "", str(path), digest, read.geometry, chosen, held_out, "", source, read.notes,
                volume=volume, channel=channel,
            )  # fmt: skip
            with new_image(self.make_folder("scans"), self._has) as image:
                scan = replace(scan, image_sha256=write_image(image.path, read, chosen))
                is_back = self._insert(scan, image, name)
        known = self._known(digest)
        assert known is not None
        if is_back:
            self.on_notice(f"{known.title} has the annotation again that it had when it was removed.")
        number, part = next(each for each in enumerate(known.parts) if each[1].sha256 == digest)
        changed = (part.modality, part.modality_source) != (chosen, source)
        if changed and overrules(source, part.modality_source):
            self.change_modality(known.id, chosen, source, read, part.channel)
        if number:
            return self.scans[known.id]
        if channel and not known.channel and channel not in known.channel_names:
            self._change_scan(known.id, lambda scan: replace(scan, channel=channel))
        if held_out and not known.held_out:
            self.hold_out(known.id)
        self._check_image(known.id, "", lambda: read)
        return self.scans[known.id]

    def _say_copy(self, path: Path, known: Scan, digest: str) -> None:
        """Say which file a scan came from that has the same voxels as this file, if it is another one."""
        source = next(Path(part.source) for part in known.parts if part.sha256 == digest)
        of_one_series = source.parent == path or source == path.parent
        try:
            is_copy = not of_one_series and source.exists() and not source.samefile(path)
        except OSError:
            is_copy = False  # it was there when the scan was added, but cannot be looked at now
        if is_copy:
            self.on_notice(
                f"{path} has the same voxels as {known.title} ({source}), which is in the project already; "
                "it was not added again."
            )

    def change_modality(
        self, scan_id: str, modality: str, source: str, volume: Volume | None = None, channel: str = ""
    ) -> None:
        """Change the modality of a scan's channel, see `medssl.core.project.modality.set_modality`.

        Args:
            scan_id: Id of the scan.
            modality: One of `intensity.MODALITIES`.
            source: Where it is from.
            volume: The channel as in its file, whose image is normalised anew; None if its modality was only
                confirmed.
            channel: Name of the channel; empty for the first.
        """
        self.need_writable()
        if channel == self.scan(scan_id).channel:
            channel = ""

        def changed(scan: Scan, sha256: str = "") -> Scan:
            number = number_of(scan, channel)
            part = scan.part(number)
            sha256 = sha256 or part.image_sha256
            part = replace(part, modality=modality, modality_source=source, image_sha256=sha256)
            return scan.with_part(number, part)

        if volume is None:
            self._change_scan(scan_id, changed)
            return
        on_grid = onto_grid(volume, self.scan(scan_id).geometry) if channel else volume
        with new_image(self.make_folder("scans"), self._has) as image:
            sha256 = write_image(image.path, on_grid, modality)

            def normalise(scan: Scan) -> Scan:
                renewed = changed(scan, sha256)
                image.replace(self.image_file(scan.id, channel))
                return renewed

            self._change_scan(scan_id, normalise)

    def image(self, scan_id: str, channel: str = "") -> np.ndarray:
        """A channel of the normalised scan, float16 (Z, Y, X), as a memory map.

        A damaged file is written again from the channel's source.

        Args:
            scan_id: Id of the scan.
            channel: Name of the channel; empty for the first.

        Raises:
            UserError: "no-scan", "no-channel", "not-readable", or "unreadable" if the source has changed or
                is gone, too.
        """
        if channel == self.scan(scan_id).channel:
            channel = ""
        part = self._part(scan_id, channel)

        def source() -> Volume:
            if not channel:
                return read_source(part)
            self.image(scan_id)  # whose shape says that the grid in project.json is not damaged
            return onto_grid(read_source(part), part.geometry)

        return self._check_image(scan_id, channel, source)

    def _part(self, scan_id: str, channel: str) -> Scan:
        """A channel of a scan as if it were its only one; the first, "", as the scan itself."""
        scan = self.scan(scan_id)
        return scan.part(number_of(scan, channel))

    def _check_image(self, scan_id: str, channel: str, source: Callable[[], Volume]) -> np.ndarray:
        """The image of a channel of a scan, written again from `source` if it is damaged."""
        path = self.image_file(scan_id, channel)
        try:
            return read_image(path, self._part(scan_id, channel))
        except UserError as damage:
            if damage.code == "not-readable":
                raise
            try:
                # Under the lock, because another process may be in the middle of changing the modality.
                return self._locked(lambda: read_image(path, self._part(scan_id, channel)))
            except UserError:
                pass
            try:
                self._renew_image(scan_id, channel, source())
            except UserError as error:
                title = self.scan(scan_id).title
                raise UserError(
                    f"The image of {title} ({path}) is missing or damaged; restore it from a backup, as it "
                    f"cannot be made again: {error}",
                    code="unreadable",
                ) from damage
        return read_image(path, self._part(scan_id, channel))

    def _renew_image(self, scan_id: str, channel: str, volume: Volume) -> None:
        """Write the damaged image of a channel again, unless another process has changed it since."""
        known, path = self._part(scan_id, channel), self.image_file(scan_id, channel)
        with new_image(self.make_folder("scans"), self._has) as image:
            sha256 = write_image(image.path, volume, known.modality)

            def renew(scan: Scan) -> Scan:
                if self._part(scan_id, channel) != known:
                    return scan
                image.replace(path)
                # A former version may have normalised it in another way, and recorded that image's hash.
                renewed = replace(known, image_sha256=sha256 if known.image_sha256 else "")
                return scan.with_part(number_of(scan, channel), renewed)

            self._change_scan(scan_id, renew)
        self.on_notice(f"{path} was missing or damaged; it was made again from {volume.path}.")

    def image_file(self, scan_id: str, channel: str) -> Path:
        """Path of the image of a channel after the first, or of the first, ""; ids contain no dots."""
        return self.root / "scans" / f"{scan_id}{'.' * bool(channel)}{channel}.npy"


def read_checked(path: Path, volume: int | None, refuse_masks: bool) -> Volume:
    """Read a scan; raises UserError ("mask") if `refuse_masks` and its voxels are class ids."""
    read = read_scan(path, volume)
    if refuse_masks and looks_like_labels(read.array):
        raise UserError(
            f"{path} holds labels, not a scan, and is left out; give the file itself to add it.",
            code=MASK,
        )
    return read
