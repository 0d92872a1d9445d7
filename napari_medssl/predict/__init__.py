"""Predictions about the scan on the screen, where they are uncertain, live previews."""
