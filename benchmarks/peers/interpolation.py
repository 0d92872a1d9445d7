"""Shape-based interpolation between painted slices as a peer: what a contouring program offers.

It looks at no grey value, so it says nothing about scans in which nothing was painted.
"""

from __future__ import annotations

import time

from medssl.benchmarking.experiment import Outcome
from medssl.benchmarking.protocol import Assignment
from medssl.core.labels.shape_interpolation import interpolate
from medssl.core.project.project import Annotation


def interpolated(assignment: Assignment) -> Outcome:
    """Fill the annotated scans between their painted slices; outside of these is background."""
    project = assignment.material.project
    class_ids = [each.id for each in project.classes]
    filled = {}
    begin = time.monotonic()
    for scan_id, slices in assignment.annotated.items():
        annotation = project.annotation(scan_id)
        assert isinstance(annotation, Annotation)  # the assignment says so
        spacing = project.scans[scan_id].geometry.spacing_mm[1:]
        filled[scan_id] = interpolate(annotation.labels, slices, class_ids, spacing)
    seconds = time.monotonic() - begin
    return Outcome(
        prediction=lambda scan_id: filled[scan_id],
        seconds={"finetune": seconds, "wall": seconds},
        painted_only=True,
    )
