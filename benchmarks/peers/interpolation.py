"""Shape-based interpolation between annotated slices, as in contouring programs.

It does not use the image, so it segments annotated scans only.
"""

from __future__ import annotations

import time

from medssl.benchmarking.experiment import Outcome
from medssl.benchmarking.protocol import Assignment
from medssl.core.labels.shape_interpolation import interpolate
from medssl.core.project.project import Annotation


def interpolated(assignment: Assignment) -> Outcome:
    """Interpolate between the annotated slices of each scan; the rest is background."""
    project = assignment.material.project
    class_ids = [each.id for each in project.classes]
    results = {}
    begin = time.monotonic()
    for scan_id, slices in assignment.annotated.items():
        annotation = project.annotation(scan_id)
        assert isinstance(annotation, Annotation)  # the assignment says so
        spacing = project.scans[scan_id].geometry.spacing_mm[1:]
        results[scan_id] = interpolate(annotation.labels, slices, class_ids, spacing)
    seconds = time.monotonic() - begin
    return Outcome(
        prediction=lambda scan_id: results[scan_id],
        seconds={"finetune": seconds, "wall": seconds},
        painted_only=True,
    )
