"""Scan files into volumes: formats, geometry, grey values."""
