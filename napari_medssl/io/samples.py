"""Sample data: a synthetic CT of a torso, computed locally (nothing is downloaded)."""

from __future__ import annotations

from typing import Any

SEED = 1


def phantom() -> list[tuple[Any, ...]]:
    """A synthetic CT as an image layer."""
    return phantom_with_labels()[:1]


def phantom_with_labels() -> list[tuple[Any, ...]]:
    """A synthetic CT and its organs as an image layer and a labels layer."""
    from medssl.core.phantom import CLASSES, make_phantom

    from napari_medssl import layers

    scan, labels, geometry = make_phantom(SEED)
    image = layers.scan_data(scan, geometry, "phantom CT")
    data, kwargs, kind = layers.labels_data(labels, geometry, "phantom organs")
    return [image, (data, {**kwargs, "colormap": layers.colormap(CLASSES), "opacity": 0.5}, kind)]
