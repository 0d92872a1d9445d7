"""Pictures of results, for reports and the README: dark, calm, and true to scale.

Everything is drawn from arrays in canonical order (Z, Y, X) and a spacing in mm; nothing here knows
torch or a display. Slices are shown as radiologists expect them: the patient's right on the left.
"""

from medssl.benchmarking.pictures.amounts import Amounts, amounts
from medssl.benchmarking.pictures.charts import Curve, curves, dice_table, read_curve
from medssl.benchmarking.pictures.overlay import Segmented, overlay
from medssl.benchmarking.pictures.similar import Similar, similarity

__all__ = [
    "Amounts",
    "Curve",
    "Segmented",
    "Similar",
    "amounts",
    "curves",
    "dice_table",
    "overlay",
    "read_curve",
    "similarity",
]
