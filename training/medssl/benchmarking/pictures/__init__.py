"""Figures of results for reports and the README, with a dark background and true proportions.

Inputs are arrays in canonical order (Z, Y, X) and a spacing in mm; no display and no torch are needed.
Slices are shown in radiological convention: the patient's right is on the left.
"""

from medssl.benchmarking.pictures.charts import Curve, curves, dice_table, read_curve
from medssl.benchmarking.pictures.overlay import Segmented, overlay
from medssl.benchmarking.pictures.similar import Similar, similarity
from medssl.benchmarking.pictures.slice_counts import SliceCounts, slice_counts

__all__ = [
    "Curve",
    "Segmented",
    "Similar",
    "SliceCounts",
    "curves",
    "dice_table",
    "overlay",
    "read_curve",
    "similarity",
    "slice_counts",
]
