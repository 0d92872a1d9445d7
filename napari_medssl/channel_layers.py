"""The channels of the scan on the screen: a layer for each further one, and which of them are visible."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from medssl.core.io.resample import onto_grid
from medssl.core.io.volume import Volume
from medssl.core.project.project import Project, Scan
from napari.components import ViewerModel
from napari.layers import Image
from napari.utils import Colormap
from psygnal import Signal

from napari_medssl import layers
from napari_medssl.io.scan_loader import read
from napari_medssl.latest_only_worker import LatestOnlyWorker
from napari_medssl.model.session import Session
from napari_medssl.overlay_colors import overlay_colors

COLORMAPS = {"pt": "inferno"}
"""Colour maps by modality of a channel that is shown alone; those of others are grey."""
OVERLAYS = ("inferno", "bop blue", "bop purple")
"""Colours of channels after the first that are grey when alone, where all are shown together."""
OPACITY = 0.7
"""Of their bright colours: what the first channel shows is still seen through them."""
FIRST, TOGETHER = "", None
"""What is shown: the first channel, all of them, or else the one of this name."""


class ChannelLayers:
    """Reads channels in a thread once their scan is on the screen, and removes them with it.

    Further channels lie above the scan and below all overlays. Together, they are seen through where their
    values are low: a PET, low nearly everywhere, leaves the CT below as it is.
    """

    changed = Signal()
    """A layer has come, gone, been shown or hidden."""

    def __init__(self, viewer: ViewerModel, session: Session, scan_layer: Callable[[], Image | None]) -> None:
        self._viewer, self._session, self._scan_layer = viewer, session, scan_layer
        self._worker = LatestOnlyWorker(session)
        self._wanted: str | None = FIRST
        """What is shown in the next scan, too, where it has it."""
        self._limits: dict[str, tuple[float, float]] = {}
        """Contrast limits of channels that have left the screen, by `_key`."""
        self._colors: dict[str, Colormap] = {}
        """Colour maps of channels on the screen when they are shown alone."""
        for signal in (session.project_changed, session.scans_changed, session.scan_changed):
            signal.connect(self.refresh)
        viewer.layers.events.inserted.connect(self._on_inserted)
        viewer.layers.events.removed.connect(self._on_change)
        for layer in viewer.layers:
            layer.events.visible.connect(self._on_change)

    def close(self) -> None:
        """Disconnect from the viewer."""
        self._viewer.layers.events.inserted.disconnect(self._on_inserted)
        self._viewer.layers.events.removed.disconnect(self._on_change)
        for layer in self._viewer.layers:
            layer.events.visible.disconnect(self._on_change)

    def refresh(self) -> None:
        """Show the channels of the scan on the screen, each above the one before."""
        project, scan = self._session.project, self.scan
        parts = scan.parts[1:] if scan is not None else ()
        shown = {layer: layers.entry_of(layer)["channel"] for layer in self._layers()}
        for layer, key in shown.items():
            if key not in map(_key, parts):
                self._limits[key] = (float(layer.contrast_limits[0]), float(layer.contrast_limits[1]))
                self._viewer.layers.remove(layer)
                self.arrange()
        missing = [part for part in parts if _key(part) not in shown.values()]
        if project is None or not missing:
            self._worker.stop()
        else:
            self._worker.submit(lambda: _read(project, missing), lambda result: self._add(*result))

    # --- which are visible ---------------------------------------------------------------------------

    @property
    def scan(self) -> Scan | None:
        """The scan on the screen."""
        project = self._session.project
        return project.scans.get(self._session.scan or "") if project is not None else None

    @property
    def parts(self) -> list[tuple[Scan, Image]]:
        """The channels that have been read, each as if it were the scan's only one, and their layers."""
        scan, first = self.scan, self._scan_layer()
        if scan is None or first is None:
            return []
        read = {layers.entry_of(layer)["channel"]: layer for layer in self._layers()}
        further = [(part, read[_key(part)]) for part in scan.parts[1:] if _key(part) in read]
        return [(scan, first), *further]

    @property
    def front(self) -> tuple[Scan, Image] | None:
        """The channel whose window of grey values is set: the first that is visible, or the first of all."""
        parts = self.parts
        return next((each for each in parts if each[1].visible), parts[0] if parts else None)

    def visible(self) -> list[str]:
        """Names of the visible channels; its modality stands for a first one without a name."""
        return [part.channel or part.modality.upper() for part, layer in self.parts if layer.visible]

    def step(self) -> None:
        """Show one channel after the other alone, then all together, then the first again."""
        parts = self.parts
        shown = [layer.visible for _, layer in parts]
        if all(shown) or not any(shown):
            self._wanted = FIRST
        else:
            following = shown.index(True) + 1
            self._wanted = parts[following][0].channel if following < len(parts) else TOGETHER
        self.arrange()

    def arrange(self) -> None:
        """Show the channel that was chosen last, or the first one in a scan without it."""
        parts = self.parts
        names = [FIRST, *(part.channel for part, _ in parts[1:])]
        together = self._wanted is TOGETHER
        alone = self._wanted if self._wanted in names else FIRST
        for number, (name, (part, layer)) in enumerate(zip(names, parts, strict=False)):
            if number:
                self._color(part, layer, OVERLAYS[(number - 1) % len(OVERLAYS)], together)
            layer.visible = together or name == alone

    def _color(self, part: Scan, layer: Image, color: str, together: bool) -> None:
        """Let a channel be seen through, or not; the colours are those that the user may have chosen."""
        is_overlay, key = layer.colormap.colors[0, 3] == 0, _key(part)
        if together and not is_overlay:
            self._colors[key] = layer.colormap
            of = color if layer.colormap.name == "gray" else layer.colormap
            layer.colormap = overlay_colors(of, f"{part.channel} overlay", OPACITY)
        elif is_overlay and not together and key in self._colors:
            layer.colormap = self._colors[key]

    def _on_inserted(self, event: Any) -> None:
        event.value.events.visible.connect(self._on_change)
        self._on_change()

    def _on_change(self, event: object = None) -> None:
        self.changed.emit()

    # --- their layers --------------------------------------------------------------------------------

    def _layers(self) -> list[Image]:
        return [each for each in self._viewer.layers if layers.entry_of(each).get("role") == layers.CHANNEL]

    def _add(self, part: Scan, volume: Volume, warning: str) -> None:
        if warning:
            self._session.notify("warning", warning)
        scan, key = self._session.need_scan(), _key(part)
        names = [layers.entry_of(layer)["channel"] for layer in self._layers()]
        if scan.id != part.id or part.channel not in scan.channel_names or key in names:
            return  # another scan was opened meanwhile, or the channel was removed
        data, kwargs, _ = layers.scan_data(volume.array, scan.geometry, f"{scan.title} {part.channel}")
        kwargs["metadata"][layers.KEY] |= {
            "role": layers.CHANNEL, "scan": scan.id, "channel": key, "path": part.source
        }  # fmt: skip
        kwargs["colormap"] = COLORMAPS.get(part.modality, "gray")
        kwargs["contrast_limits"] = self._limits.get(key, kwargs["contrast_limits"])
        layer = Image(data, visible=False, **kwargs)
        layers.add(self._viewer, layer, position=layers.above_scan(self._viewer, scan.id))
        self.arrange()


def _read(project: Project, parts: list[Scan]) -> Iterator[tuple[Scan, Volume, str]]:
    """Runs in a thread."""
    for part in parts:
        volume, warning = read(project, part)
        yield part, onto_grid(volume, part.geometry), warning


def _key(part: Scan) -> str:
    """Identifies a channel and its image."""
    return f"{part.id} {part.channel} {part.image_sha256}"
