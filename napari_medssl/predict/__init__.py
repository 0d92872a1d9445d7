"""Predictions of the scan on the screen, their uncertainty, and live previews during training."""
