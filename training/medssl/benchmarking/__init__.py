"""Protocols, experiments and reports that measure how good the methods are. Nothing below imports it."""
