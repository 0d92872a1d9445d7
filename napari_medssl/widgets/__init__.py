"""The dock and its five steps."""

from napari_medssl.widgets.dock import Dock

__all__ = ["Dock"]
