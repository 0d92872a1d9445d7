"""Drawn shapes become voxels of the slice that they lie on."""

from __future__ import annotations

import numpy as np
from medssl.core.labels.rasterize import line_voxels, polygon_mask, slice_of, stroke_mask, voxels_of_slice


def test_a_point_becomes_a_disc_in_mm():
    mask = stroke_mask(np.array([[10.0, 20.0]]), 3.0, (1.0, 0.5), (21, 41))
    rows, columns = np.nonzero(mask)
    distance = np.hypot((rows - 10) * 1.0, (columns - 20) * 0.5)
    assert mask[10, 20] and distance.max() <= 3
    assert np.ptp(rows) == 6 and np.ptp(columns) == 12


def test_a_line_is_as_wide_as_the_brush_from_end_to_end():
    mask = stroke_mask(np.array([[5.0, 5.0], [5.0, 15.0]]), 1.0, (1.0, 1.0), (11, 21))
    assert mask[4:7, 5:16].all() and mask[5, 4] and mask[5, 16] and not mask[3].any() and not mask[4, 4]


def test_a_bent_line_passes_through_all_its_points_and_is_cut_at_the_edge():
    points = np.array([[2.0, 2.0], [2.0, 8.0], [12.0, 8.0]])
    mask = stroke_mask(points, 0.5, (1.0, 1.0), (10, 10))
    assert mask[2, 2:9].all() and mask[2:, 8].all() and mask.sum() == 7 + 7


def test_a_stroke_is_round_in_mm_and_leaves_no_gap():
    covered = stroke_mask(np.array([[20, 15], [20, 15]]), 6.0, (1.0, 2.0), (40, 30))
    down, right = (np.flatnonzero(covered.any(axis)) for axis in (1, 0))
    assert (down[0], down[-1], right[0], right[-1]) == (14, 26, 12, 18)
    line = stroke_mask(np.array([[2, 2], [35, 27]]), 0.5, (1.0, 2.0), (40, 30))
    assert line[2, 2] and line[35, 27]
    assert line.any(1)[2:36].all()
    assert not stroke_mask(np.array([[-30, 5], [-20, 5]]), 3.0, (1.0, 2.0), (40, 30)).any()


def test_a_thin_line_between_two_rows_of_thick_pixels_is_there():
    mask = stroke_mask(np.array([[4.4, 2.0], [4.4, 8.0]]), 0.5, (5.0, 1.0), (10, 10))
    assert mask[4, 2:9].all() and mask.sum() == 7


def test_a_line_through_voxels_has_no_gap_in_three_dimensions():
    voxels = line_voxels(np.array([[3, 1, 1], [3, 4, 11], [3, 0, 11]]))
    assert (voxels[:, 0] == 3).all() and (np.abs(np.diff(voxels, axis=0)).max(1) <= 1).all()
    assert voxels[0].tolist() == [3, 1, 1] and voxels[-1].tolist() == [3, 0, 11]


def test_pixels_of_a_slice_are_voxels_of_the_volume():
    volume = np.random.default_rng(0).integers(0, 9, (4, 5, 6))
    for axis in range(3):
        plane = volume.take(2, axis)
        assert (
            volume.reshape(-1)[voxels_of_slice(plane > 3, axis, 2, volume.shape)] == plane[plane > 3]
        ).all()


def test_a_polygon_contains_the_pixels_whose_centres_it_encloses():
    corners = np.array([[0.6, 0.6], [0.6, 3.4], [3.4, 3.4], [3.4, 0.6]])
    mask = polygon_mask(corners, (6, 6))
    assert mask[1:4, 1:4].all() and mask.sum() == 9


def test_a_polygon_across_the_edge_is_cut():
    mask = polygon_mask(np.array([[-3.0, -3.0], [-3.0, 2.0], [2.0, 2.0], [2.0, -3.0]]), (5, 5))
    assert mask[0, 0] and not mask[3:].any()


def test_a_shape_lies_on_one_slice_or_on_none():
    flat = np.array([[3.2, 0, 0], [2.9, 5, 5], [3.0, 9, 1]])
    assert slice_of(flat, axis=1) == (0, 3)
    assert slice_of(np.array([[3.0, 0, 4], [3.0, 5, 4]]), axis=2) == (2, 4)
    assert slice_of(np.array([[3.0, 0, 4], [3.0, 5, 4]]), axis=0) == (0, 3)
    assert slice_of(np.array([[3.0, 0, 4], [5.0, 5, 9]]), axis=0) is None
