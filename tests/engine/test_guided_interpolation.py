"""Interpolated outlines follow what the scan shows between two annotated slices."""

from __future__ import annotations

import numpy as np
from medssl.core.labels.metrics import dice
from medssl.core.labels.shape_interpolation import fill, interpolate
from medssl.core.labels.slice_motion import displacements
from medssl.core.project.annotation import Annotation

SHAPE = (9, 40, 40)


def bent_tube(noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """A scan (Z, Y, X) in which a disc moves from slice to slice on an arc, and its labels."""
    labels = np.zeros(SHAPE, np.uint8)
    rows, columns = np.mgrid[: SHAPE[1], : SHAPE[2]]
    for index in range(SHAPE[0]):
        row, column = 14 + 1.5 * index, 18 + 5 * np.sin(np.pi * index / 8)
        labels[index][np.hypot(rows - row, columns - column) < 5] = 2
    return (labels / 2 + np.random.default_rng(0).normal(0, noise, SHAPE)).astype(np.float32), labels


def between(scan: np.ndarray | None, labels: np.ndarray) -> float:
    """Dice of the slices between the first and the last."""
    result = interpolate(labels, [0, 8], [2], (1, 1), scan)
    assert np.array_equal(result[[0, 8]], labels[[0, 8]])
    return dice(result[1:8], labels[1:8], [2])[2]


def test_a_bent_tube_is_followed() -> None:
    scan, labels = bent_tube()
    assert between(None, labels) < 0.6 and between(scan, labels) > 0.85


def test_a_border_between_grey_values_is_found_where_nothing_moves() -> None:
    rows, columns = np.mgrid[: SHAPE[1], : SHAPE[2]]
    radii = 8 - 2.5 * np.sin(np.pi * np.arange(9) / 8)  # a waist, which the outlines do not show
    labels = np.stack([2 * (np.hypot(rows - 20, columns - 20) < radius) for radius in radii]).astype(np.uint8)
    scan = labels / 2 + np.random.default_rng(0).normal(0, 0.1, SHAPE)
    assert between(scan, labels) > between(None, labels) + 0.05


def test_a_scan_without_contrast_leaves_the_interpolation_of_shapes() -> None:
    _, labels = bent_tube()
    shapes = interpolate(labels, [0, 8], [2], (1, 1))
    guided = interpolate(labels, [0, 8], [2], (1, 1), np.full(SHAPE, 7.0))
    assert np.count_nonzero(guided != shapes) <= 0.02 * np.count_nonzero(shapes)


def test_nothing_moves_where_nothing_is_seen() -> None:
    assert np.abs(displacements(np.ones((4, 12, 10), np.float32))).max() < 1e-6


def test_displacements_add_up_from_slice_to_slice() -> None:
    pattern = np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32)
    moving = np.stack([np.roll(pattern, (index, -index), (0, 1)) for index in range(5)])
    middle = displacements(moving)[:, :, 12:28, 12:28].mean(axis=(2, 3))
    steps = np.arange(5)
    assert np.allclose(middle, np.stack([-steps, steps], 1), atol=0.3)


def test_a_structure_that_one_slice_lacks_ends_between_them() -> None:
    scan, labels = bent_tube()
    labels[8] = 0
    result = interpolate(labels, [0, 8], [2], (1, 1), scan)
    assert result[1].any() and not result[7].any()


def test_a_fill_is_guided_in_any_orientation() -> None:
    scan, labels = bent_tube()
    painted = np.where(np.isin(np.arange(9), (0, 8))[:, None, None], labels, 0)
    expected = interpolate(labels, [0, 8], [2], (1, 1), scan)[1:8] == 2
    for axis in range(3):
        turned, grey = (np.ascontiguousarray(np.moveaxis(array, 0, axis)) for array in (painted, scan))
        filled = fill(Annotation(turned, ((axis, 0), (axis, 8))), axis, 4, (1, 1, 1), grey)
        assert np.array_equal(np.moveaxis(filled, axis, 0)[1:8] == 2, expected)
