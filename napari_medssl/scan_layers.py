"""Which image layer shows a scan: ours, the same for all scans, or one that the user opened from its file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medssl.core.io.volume import Volume
from medssl.core.project.project import Scan
from napari.components import ViewerModel
from napari.layers import Image

from napari_medssl import layers
from napari_medssl.model.session import Session


class ScanLayers:
    """Shows one scan at a time, in a layer that becomes that of all scans."""

    def __init__(self, viewer: ViewerModel, session: Session) -> None:
        self.viewer, self.session = viewer, session
        self._own: Image | None = None

    @property
    def shown(self) -> Image | None:
        """The layer of the scan on the screen."""
        scan = self.session.scan
        return next((x for x in self._all() if scan and layers.entry_of(x)["scan"] == scan), None)

    def with_scan(self, scan: Scan) -> Image | None:
        """The layer that shows this scan already: ours, or one that the user opened from its file."""
        for layer in self._all():
            entry = layers.entry_of(layer)
            is_file = bool(entry["path"]) and Path(entry["path"]) == Path(scan.source)
            is_unchanged = entry.get("sha256") in (None, "", scan.sha256)
            if entry["scan"] == scan.id or (is_file and is_unchanged):
                return layer
        return None

    def show(self, scan: Scan, read: Callable[[Scan], Volume]) -> Image:
        """Show a scan, and hide all others.

        Args:
            scan: The scan.
            read: Reads it, where no layer has it.

        Returns:
            Its layer.
        """
        layer = self.with_scan(scan)
        if layer is None:
            layer = self._show_volume(scan, read(scan))
        elif layer is not self._own:
            self._make_own(layer)
        layers.entry_of(layer)["scan"] = scan.id
        for other in self._all():
            other.visible = other is layer
        return layer

    def take_over(self, layer: Image, scan: Scan, show: bool) -> None:
        """Take in a layer that the user opened, once its scan is in the project.

        A hidden layer that stayed would stretch the slider of every other scan, so a layer is removed unless
        it shows the scan as we do, to become the layer of all scans.

        Args:
            layer: The layer.
            scan: The scan that was added from it.
            show: Whether the scan is shown next.
        """
        layers.remember_file(layer, Path(scan.source))
        if not (show and self.with_scan(scan) is layer):
            layers.remove(self.viewer, layer)

    def clear(self) -> None:
        """Another project: our layer goes, the user's own scans stay."""
        layers.remove(self.viewer, self._own)
        for layer in self._all():
            layers.entry_of(layer)["scan"] = ""

    def forget(self, scan: str) -> None:
        """A scan was removed: a layer of the user's own that shows it can be added again."""
        for layer in self._all():
            if layers.entry_of(layer)["scan"] == scan:
                layers.entry_of(layer)["scan"] = ""

    def _all(self) -> list[Image]:
        return [layer for layer in self.viewer.layers if layers.entry_of(layer).get("role") == layers.SCAN]

    def _make_own(self, layer: Image) -> None:
        """Make a layer that the user opened the one that shows all scans, below the overlays."""
        layers.remove(self.viewer, self._own)
        self._own = layer
        self.viewer.layers.move(self.viewer.layers.index(layer), 0)

    def _show_volume(self, scan: Scan, volume: Volume) -> Image:
        """Put the scan into the layer that we made for an earlier one, or into a new one."""
        data, kwargs, _ = layers.scan_data(
            volume.array, volume.geometry, scan.title, scan.source, scan.id, scan.sha256
        )
        layer = next((layer for layer in self._all() if layer is self._own), None)
        if layer is None:
            self._own = layer = Image(data, **kwargs)
            self.viewer.layers.insert(0, layer)
            return layer
        layer.data = data
        for name in ("scale", "metadata", "name", "contrast_limits"):
            setattr(layer, name, kwargs[name])
        return layer
