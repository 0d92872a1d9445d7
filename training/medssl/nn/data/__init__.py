"""Scans on the device, and crops of them with their geometry."""
