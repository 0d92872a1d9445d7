"""Reader, writer and sample data for napari; loading of scans in a thread."""
