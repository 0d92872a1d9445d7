"""How a training sees the scans: dimensions, patches, channels, precision and threads."""
