"""The engine of napari-medssl: pre-training and few-slice fine-tuning for 3D medical scans."""

__version__ = "0.1.0"
"""The version of engine, plugin and package; pyproject.toml reads it here."""
