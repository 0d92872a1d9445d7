"""Letters at the edges of the picture, and what they stand for in the patient."""

from __future__ import annotations

import numpy as np
import pytest
from medssl.core.io.geometry import Geometry
from reading_room import OBLIQUE, SHAPE

from napari_medssl.navigation import RADIOLOGICAL_ORIENTATION
from napari_medssl.reading.directions import AWAY, TOWARDS, edge_letters


@pytest.mark.parametrize(
    ("axis", "letters"), [(0, "RLAP"), (1, "RLSI"), (2, "APSI")], ids=["axial", "coronal", "sagittal"]
)
def test_letters_of_the_radiological_display(axis, letters):
    displayed = [other for other in range(3) if other != axis]
    assert edge_letters(displayed, RADIOLOGICAL_ORIENTATION) == letters


def test_letters_follow_the_camera_and_the_order_of_axes():
    assert edge_letters((1, 2), ("towards", "down", "right")) == "LRPA"
    assert edge_letters((2, 1), RADIOLOGICAL_ORIENTATION) == "APRL"


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1)])
def test_letters_of_an_oblique_scan_are_the_nearest_directions(flips):
    matrix = OBLIQUE @ np.diag([*flips, 1])
    affine = Geometry.of(matrix, SHAPE[::-1]).canonical_affine
    for axis, patient_axis in enumerate((2, 1, 0)):  # S, A, R in RAS coordinates
        step = affine[:3, axis]
        assert int(np.argmax(np.abs(step))) == patient_axis
        assert step[patient_axis] > 0
        assert TOWARDS[axis] == "RAS"[patient_axis]
        assert AWAY[axis] == "LPI"[patient_axis]
