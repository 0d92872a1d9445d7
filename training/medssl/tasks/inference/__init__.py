"""Prediction of whole volumes, posterior smoothing, location prior, decision thresholds, features."""
