"""napari-medssl: the plugin. It knows Qt and napari; the engine (package `medssl`) knows torch."""

__version__ = "0.1.0"
