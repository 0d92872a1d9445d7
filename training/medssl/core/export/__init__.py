"""Segmentations leave the project: label files, tables, provenance records."""
