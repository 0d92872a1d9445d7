"""A simulated user with a mouse: strokes that make exactly the labels, and the seconds they take."""

from __future__ import annotations

import numpy as np
import pytest
from medssl.benchmarking import mouse_painting
from medssl.benchmarking.mouse_painting import (
    BUTTON_S,
    CANVAS_CM,
    DRAW_S_PER_CM,
    KEY_S,
    LOOK_S,
    POINT_S,
    STEERING_S,
    Effort,
    paint,
    quickest,
)
from medssl.core.labels.rasterize import stroke_mask

SQUARE = 10
"""Side in pixels."""
OUTLINE = 4 * (SQUARE - 1)
"""Length of the path through the pixels at its border."""
RING = 4 * (SQUARE - 5)
"""Length of the path on which a brush of 2.5 pixels touches the border from inside: it fills the square."""


def square(side: int) -> np.ndarray:
    """A slice of `side` pixels with a square of class 1."""
    labels = np.zeros((side, side), np.uint8)
    labels[20 : 20 + SQUARE, 30 : 30 + SQUARE] = 1
    return labels


def blobs(seed: int, shape: tuple[int, int] = (30, 26)) -> np.ndarray:
    """Three classes of ragged shapes with holes, some at the border of the slice."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(4, *shape)), (0, 2.5, 2.5))
    return np.argmax(noise, axis=0).astype(np.uint8)


@pytest.mark.parametrize("side", [100, 200])
@pytest.mark.parametrize("spacing_mm", [0.5, 2.0])
def test_a_square_costs_what_the_formula_says(side: int, spacing_mm: float) -> None:
    target = square(side)
    painted, effort = paint(np.zeros_like(target), target, (spacing_mm, spacing_mm))
    assert np.array_equal(painted, target)
    ring_cm = RING * CANVAS_CM / side  # the slice fills the canvas, whatever its size in mm
    assert effort.traced_s == pytest.approx(OUTLINE * STEERING_S)
    assert effort.filled_s == pytest.approx(ring_cm * DRAW_S_PER_CM)
    assert (effort.clicks, effort.keys, effort.looks) == (3, 2, 0), "class, outline, inside; brush and back"
    assert effort.seconds == pytest.approx(
        OUTLINE * STEERING_S + ring_cm * DRAW_S_PER_CM + 3 * (POINT_S + BUTTON_S) + 2 * KEY_S
    )


def test_an_outline_is_never_drawn_faster_than_a_line_elsewhere() -> None:
    target = square(40)[20:30, 30:40]  # ten pixels on the whole canvas
    target = np.pad(target, 1)
    _, effort = paint(np.zeros_like(target), target, (1.0, 1.0))
    assert effort.traced_s == pytest.approx(OUTLINE * CANVAS_CM / len(target) * DRAW_S_PER_CM)
    assert effort.traced_s > OUTLINE * STEERING_S


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0), (0.7, 1.9)])
def test_strokes_cover_exactly_what_is_wrong(seed: int, spacing_mm: tuple[float, float]) -> None:
    current, target = blobs(seed), blobs(seed + 10)
    painted, effort = paint(current, target, spacing_mm)
    assert np.array_equal(painted, target)
    assert effort.seconds > 0
    assert paint(target, target, spacing_mm)[1] == Effort()


@pytest.mark.parametrize("seed", range(4))
def test_no_stroke_leaves_what_may_be_covered(seed: int) -> None:
    allowed = blobs(seed) == 1
    need = allowed & (blobs(seed + 10) != 1)
    strokes = quickest(need, allowed, (1.0, 1.0))
    masks = [stroke_mask(each.vertices, each.radius_mm, (1.0, 1.0), need.shape) for each in strokes]
    covered = np.any(masks, axis=0)
    assert not (covered & ~allowed).any()
    assert covered[need].all()


def test_a_small_mistake_costs_less_than_the_slice() -> None:
    target = square(100)
    wrong = target.copy()
    wrong[20:23, 30:33] = 0
    wrong[40:44, 60:64] = 1
    painted, effort = paint(wrong, target, (1.0, 1.0))
    assert np.array_equal(painted, target)
    assert effort.traced_s == pytest.approx(4 * STEERING_S), "two pixels from the corner either way"
    assert effort.clicks == 5, "class, its corner, inside; eraser, the false square"


def test_a_class_is_painted_anew_where_that_is_quicker_than_many_corrections() -> None:
    target = np.zeros((60, 60), np.uint8)
    target[5:55, 5:55] = 1
    rows, columns = np.indices(target.shape)
    wrong = np.where((rows % 7 == 1) & (columns % 7 == 1), 0, target)
    painted, effort = paint(wrong, target, (1.0, 1.0))
    assert np.array_equal(painted, target)
    assert effort.seconds <= paint(np.zeros_like(target), target, (1.0, 1.0))[1].seconds


def test_efforts_add_up() -> None:
    total = Effort(1.0, 2.0, 3, 4, 5) + Effort(clicks=1, keys=1, looks=1)
    assert total == Effort(1.0, 2.0, 4, 5, 6)
    assert total.seconds == pytest.approx(3 + 4 * (POINT_S + BUTTON_S) + 5 * KEY_S + 6 * LOOK_S)


def test_the_quickest_of_all_brushes_fills(monkeypatch: pytest.MonkeyPatch) -> None:
    target = np.zeros((100, 100), np.uint8)
    target[10:90, 10:90] = 1
    of_all = paint(np.zeros_like(target), target, (1.0, 1.0))[1].seconds
    for radius in mouse_painting.BRUSH_RADII_PIXELS:
        monkeypatch.setattr(mouse_painting, "BRUSH_RADII_PIXELS", (radius,))
        assert of_all <= paint(np.zeros_like(target), target, (1.0, 1.0))[1].seconds
