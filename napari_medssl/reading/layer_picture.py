"""The picture of all layers in one plane, which is drawn again only where something in it has changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from napari.layers import Image, Layer
from qtpy.QtCore import QSize
from qtpy.QtGui import QColor, QPainter, QPixmap, QTransform

from napari_medssl.reading.slice_image import SliceImages

OVER = QPainter.CompositionMode.CompositionMode_SourceOver
ADDED = QPainter.CompositionMode.CompositionMode_Plus


@dataclass(frozen=True)
class Page:
    """What a picture is drawn on: size in pixels of Qt, pixels of the screen for each of them, and colour."""

    size: QSize
    ratio: float
    ground: QColor


class LayerPicture:
    """Keeps slices and picture: a cross-hair that moves in the plane costs neither reading nor scaling."""

    def __init__(self) -> None:
        self._images = SliceImages()
        self._picture = QPixmap()
        self._drawn_from: object = None

    def forget(self, layer: Layer) -> None:
        """A layer looks different now."""
        self._images.forget(layer)

    def of(
        self, layers: Iterable[Layer], axis: int, point_mm: np.ndarray, transform: QTransform, page: Page
    ) -> QPixmap:
        """The picture.

        Args:
            layers: Layers from the bottom to the top.
            axis: Canonical axis across the slice.
            point_mm: A point of the slice along z, y, x, float (3,).
            transform: From mm across and down the plane to the page.
            page: What it is drawn on.
        """
        slices = [(layer, self._images.get(layer, axis, point_mm)) for layer in layers if layer.visible]
        drawn = [(*_style(layer), *found) for layer, found in slices if found is not None]
        now = page, transform, [(*style, image.cacheKey(), place) for *style, image, place in drawn]
        if now != self._drawn_from:
            self._drawn_from = now
            self._picture = QPixmap(page.size * page.ratio)
            self._picture.setDevicePixelRatio(page.ratio)
            self._picture.fill(page.ground)
            painter = QPainter(self._picture)
            painter.setTransform(transform)
            for smooth, opacity, composition, image, place in drawn:
                painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, smooth)
                painter.setOpacity(opacity)
                painter.setCompositionMode(composition)
                painter.drawImage(place, image)
            painter.end()
        return self._picture


def _style(layer: Layer) -> tuple[bool, float, QPainter.CompositionMode]:
    """Whether a layer is drawn smoothly, its opacity, and how it covers those below it."""
    smooth = isinstance(layer, Image) and layer.interpolation2d != "nearest"
    return smooth, float(layer.opacity), ADDED if layer.blending == "additive" else OVER
