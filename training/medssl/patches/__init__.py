"""Scans on the device, and crops of them whose geometry is known."""
