"""Pictures of results, for reports and the README: dark, calm, and true to scale.

Everything is drawn from arrays in canonical order (Z, Y, X) and a spacing in mm; nothing here knows
torch or a display. Slices are shown as radiologists expect them: the patient's right on the left.
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
