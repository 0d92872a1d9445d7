"""Export of segmentations: label files, tables and provenance records."""
