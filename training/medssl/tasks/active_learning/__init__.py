"""Uncertainty of a segmentation and the slices worth annotating next."""
