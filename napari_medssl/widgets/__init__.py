"""The dock and its six steps."""

from napari_medssl.widgets.dock import Dock

__all__ = ["Dock"]
