"""Colour maps of what lies over the scan: transparent where values are low, so that it is seen there."""

from __future__ import annotations

import numpy as np
from napari.utils import Colormap
from napari.utils.colormaps import ensure_colormap


def overlay_colors(of: str | Colormap, name: str, opacity: float = 1.0) -> Colormap:
    """A colour map that is transparent at its low end.

    Args:
        of: The colour map, or the name of one of napari's, such as "inferno".
        name: Name of the result.
        opacity: Opacity of the upper half of its colours; below, it rises from 0.
    """
    values = np.linspace(0, 1, 256)
    colors = np.array(ensure_colormap(of).map(values))
    colors[:, 3] = values.clip(0, 0.5) * 2 * opacity
    return Colormap(colors, name=name)
