"""The menu of a scan's channels: another sequence of the patient is added to it, or taken away."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from medssl.core.errors import UserError
from medssl.core.io.volume import READABLE, stem_of
from medssl.core.project.channels import channel_names, describe_channels
from medssl.core.project.names import as_channel_name
from medssl.core.project.project import Scan
from qtpy.QtWidgets import QFileDialog, QInputDialog, QMenu, QWidget

from napari_medssl.latest_only_worker import LatestOnlyWorker
from napari_medssl.model.reasons import job_blocked
from napari_medssl.model.session import Session
from napari_medssl.qt import not_none
from napari_medssl.widgets.components import allow


class ScanChannels:
    """Adds and removes channels; files are read in a thread."""

    def __init__(self, session: Session, parent: QWidget) -> None:
        self.session, self._parent = session, parent
        self._worker = LatestOnlyWorker(session)

    def add_to(self, menu: QMenu, scan: Scan) -> None:
        """Add the entries of a scan to its menu."""
        why_not = job_blocked(self.session)
        entry = not_none(menu.addAction("Add channel…", partial(self.ask, scan)))
        entry.setToolTip("Another sequence of this patient, or PET beside CT: both are used in trainings")
        allow(entry, why_not)
        for channel in scan.channels:
            name = channel.channel
            remove = not_none(menu.addAction(f"Remove channel {name}", partial(self.remove, scan, name)))
            allow(remove, why_not)

    def ask(self, scan: Scan) -> None:
        """Ask for a file and its name, and add it."""
        patterns = " ".join(f"*{suffix}" for suffix in READABLE)
        path, _ = QFileDialog.getOpenFileName(
            self._parent,
            f"Another channel of {scan.title} ({describe_channels(scan)})",
            str(Path(scan.source).parent),
            f"Scans ({patterns});;All files (*)",
        )
        if not path:
            return
        names = self.names_for(scan, Path(path))
        name, chosen = QInputDialog.getItem(self._parent, "Name of the channel", "Name, such as t2:", names)
        if chosen:
            self.add(scan, Path(path), name)

    def names_for(self, scan: Scan, path: Path) -> list[str]:
        """Names to offer: channels of other scans that this one lacks, and what tells the files apart."""
        known = channel_names(self.session.need_project().scans.values())
        lacking = [name for name in known if name and name not in scan.channel_names]
        own = name_from(path, Path(scan.source))
        if own in lacking:
            lacking.remove(own)
            return [own, *lacking]
        return [*lacking, own] if own not in scan.channel_names else lacking or [f"{own}-2"]

    def add(self, scan: Scan, path: Path, name: str) -> None:
        """Add a file as a channel of a scan."""
        project = self.session.need_project()

        def add() -> Iterator[Scan]:
            yield project.add_channel(scan.id, path, name)

        self._worker.submit(add, lambda added: self._on_added(added, as_channel_name(name)))

    def _on_added(self, scan: Scan, name: str) -> None:
        added = next(channel for channel in scan.channels if channel.channel == name)
        self.session.notify("info", f"{scan.title} has the channels {describe_channels(scan)} now.")
        if added.notes:
            self.session.notify("warning", f"{name} of {scan.title}: {' '.join(added.notes)}")
        self.session.scans_changed.emit()

    def remove(self, scan: Scan, name: str) -> None:
        """Remove a channel from a scan."""
        project = self.session.need_project()

        def remove() -> Iterator[str]:
            project.remove_channel(scan.id, name)
            yield name

        self._worker.submit(remove, lambda _: self.session.scans_changed.emit())


def name_from(path: Path, first: Path) -> str:
    """A channel's name from what tells its file from that of the first channel: p1_T2.nii is "t2"."""
    words, others = (re.split(r"[\W_]+", stem_of(each)) for each in (path, first))
    own = [word for word in words if word.lower() not in [other.lower() for other in others]]
    try:
        return as_channel_name("-".join(own) or stem_of(path))
    except UserError:
        return "2"
