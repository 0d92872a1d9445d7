"""The further channels of the scan on the screen: one image layer each, below that of the scan."""

from __future__ import annotations

from collections.abc import Iterator

from medssl.core.io.resample import onto_grid
from medssl.core.io.volume import Volume
from medssl.core.project.project import Project, Scan
from napari.components import ViewerModel
from napari.layers import Image

from napari_medssl import layers
from napari_medssl.io.scan_loader import read
from napari_medssl.latest_only_worker import LatestOnlyWorker
from napari_medssl.model.session import Session

COLORMAPS = {"pt": "inferno"}
"""Colour maps by modality; others are grey."""


class ChannelLayers:
    """Reads channels in a thread once their scan is on the screen, and removes them with it."""

    def __init__(self, viewer: ViewerModel, session: Session) -> None:
        self._viewer, self._session = viewer, session
        self._worker = LatestOnlyWorker(session)
        for signal in (session.project_changed, session.scans_changed, session.scan_changed):
            signal.connect(self.refresh)

    def refresh(self) -> None:
        """Show the channels of the scan on the screen, each below the one before."""
        project, scan_id = self._session.project, self._session.scan
        scan = project.scans.get(scan_id) if project is not None and scan_id is not None else None
        count = len(scan.channels) if scan is not None else 0
        parts = [scan.part(number + 1) for number in range(count)] if scan is not None else []
        shown = {layer: layers.entry_of(layer)["channel"] for layer in self._layers()}
        for layer, key in shown.items():
            if key not in map(_key, parts):
                self._viewer.layers.remove(layer)
        missing = [part for part in parts if _key(part) not in shown.values()]
        if project is None or not missing:
            self._worker.stop()
        else:
            self._worker.submit(lambda: _read(project, missing), lambda result: self._show(*result))

    def _layers(self) -> list[Image]:
        return [each for each in self._viewer.layers if layers.entry_of(each).get("role") == layers.CHANNEL]

    def _show(self, part: Scan, volume: Volume, warning: str) -> None:
        if warning:
            self._session.notify("warning", warning)
        scan = self._session.need_scan()
        names = [layers.entry_of(layer)["channel"] for layer in self._layers()]
        if scan.id != part.id or part.channel not in scan.channel_names or _key(part) in names:
            return  # another scan was opened meanwhile, or the channel was removed
        data, kwargs, _ = layers.scan_data(volume.array, scan.geometry, f"{scan.id} {part.channel}")
        kwargs["metadata"][layers.KEY] |= {
            "role": layers.CHANNEL, "scan": scan.id, "channel": _key(part), "path": part.source
        }  # fmt: skip
        kwargs["colormap"] = COLORMAPS.get(part.modality, "gray")
        layers.add(self._viewer, Image(data, visible=False, **kwargs), position=0)


def _read(project: Project, parts: list[Scan]) -> Iterator[tuple[Scan, Volume, str]]:
    """Runs in a thread."""
    for part in parts:
        volume, warning = read(project, part)
        yield part, onto_grid(volume, part.geometry), warning


def _key(part: Scan) -> str:
    """Identifies a channel and its image."""
    return f"{part.id} {part.channel} {part.image_sha256}"
