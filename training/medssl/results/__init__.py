"""Predictions, what is done with them, and how they leave the project."""
