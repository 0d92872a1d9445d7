"""Synthetic volumes: random anatomy-like labels, rendered as if by many scanners."""
