"""The colour of a class as painted, predicted and interpolated: shades by which one can tell them apart."""

from __future__ import annotations

from collections.abc import Sequence

from medssl.core.project.project import SURE_BACKGROUND, LabelClass
from napari.utils import DirectLabelColormap
from napari.utils.colormaps.standardize_color import transform_color

SURE_BACKGROUND_COLOR = "#8f9aa8"
PAINTED = 0.0
PREDICTED = -0.45
INTERPOLATED = 0.6
PREVIEWED = -0.4


def shade(color: str, towards: float) -> str:
    """A lighter or darker colour of the same hue.

    Args:
        color: "#rrggbb".
        towards: From -1, black, over 0, the colour itself, to 1, white; PAINTED, PREDICTED,
            INTERPOLATED or PREVIEWED.

    Returns:
        "#rrggbb".
    """
    end = 255 if towards > 0 else 0
    parts = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{round(part + (end - part) * abs(towards)):02x}" for part in parts)


def colormap(classes: Sequence[LabelClass], towards: float = PAINTED) -> DirectLabelColormap:
    """The classes' colours; transparent for voxels that are not annotated.

    Sure background is grey where it is painted, and not shown elsewhere.

    Args:
        classes: The classes.
        towards: Shade of their colours, as in `shade`.
    """
    clear = transform_color("transparent")[0]
    colors = {None: clear, 0: clear} | {item.id: shade(item.color, towards) for item in classes}
    colors[SURE_BACKGROUND] = SURE_BACKGROUND_COLOR if towards == PAINTED else clear
    return DirectLabelColormap(color_dict=colors)
