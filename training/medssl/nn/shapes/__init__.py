"""Synthetic volumes: random label volumes, rendered as by many scanners."""
