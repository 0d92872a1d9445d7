"""Scans on the device, and crops of them with known geometry."""
