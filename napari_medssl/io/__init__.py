"""What napari reads and writes through the plugin: scans, labels, sample data."""
