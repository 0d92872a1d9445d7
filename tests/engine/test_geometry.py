"""The way between a file's order and ours: exact there, exact back, and at the same place in the patient."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medssl.core.errors import UserError
from medssl.core.io.geometry import Geometry

UNEVEN_SHAPE = (3, 4, 5)


def rotation(angles: tuple[float, float, float]) -> np.ndarray:
    """3 x 3 rotation by angles (radians) about x, y and z."""
    turned = np.eye(3)
    for axis, angle in enumerate(angles):
        one, two = [other for other in range(3) if other != axis]
        step = np.eye(3)
        step[[one, one, two, two], [one, two, one, two]] = (
            np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle),
        )  # fmt: skip
        turned = step @ turned
    return turned


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Any axis order and mirroring, turned by up to 40 degrees, up to 20 degrees of gantry tilt."""
    order = draw(st.permutations(range(3)))
    signs = draw(st.tuples(*[st.sampled_from([-1, 1])] * 3))
    angles = draw(st.tuples(*[st.floats(-0.35, 0.35)] * 3))
    spacing = draw(st.tuples(*[st.floats(0.1, 20)] * 3))
    shear = np.eye(3)
    shear[1, 2] = np.tan(draw(st.floats(-0.35, 0.35)))
    affine = np.eye(4)
    affine[:3, :3] = rotation(angles) @ shear @ np.eye(3)[list(order)] * signs @ np.diag(spacing)
    affine[:3, 3] = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    return Geometry.of(affine, draw(st.tuples(*[st.integers(2, 6)] * 3)))


def numbered(shape: tuple[int, ...]) -> np.ndarray:
    """An array in which every voxel is different."""
    return np.arange(np.prod(shape), dtype=np.int32).reshape(shape)


@settings(max_examples=150, deadline=None)
@given(geometries())
def test_the_way_to_canonical_and_back_is_exact(geometry: Geometry) -> None:
    source = numbered(geometry.shape)
    assert np.array_equal(geometry.to_source(geometry.to_canonical(source)), source)


@settings(max_examples=150, deadline=None)
@given(geometries())
def test_the_way_to_the_source_and_back_is_exact(geometry: Geometry) -> None:
    canonical = numbered(geometry.shape_zyx)
    assert np.array_equal(geometry.to_canonical(geometry.to_source(canonical)), canonical)


@settings(max_examples=150, deadline=None)
@given(geometries())
def test_every_voxel_stays_at_its_place_in_the_patient(geometry: Geometry) -> None:
    canonical = geometry.to_canonical(numbered(geometry.shape))
    for zyx in itertools.product(*[(0, length - 1) for length in geometry.shape_zyx]):
        ijk = np.unravel_index(canonical[zyx], geometry.shape)
        here = geometry.canonical_affine @ [*zyx, 1]
        assert here == pytest.approx(geometry.matrix @ [*ijk, 1], abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(geometries())
def test_canonical_axes_grow_towards_superior_anterior_and_right(geometry: Geometry) -> None:
    superior, anterior, right = geometry.canonical_affine[:3, :3].T
    # As in nibabel, the nearest axes: together they point along the patient's more than any other order.
    assert superior[2] / np.linalg.norm(superior) > 0.3
    assert anterior[1] / np.linalg.norm(anterior) > 0.3
    assert right[0] / np.linalg.norm(right) > 0.3


@settings(max_examples=100, deadline=None)
@given(geometries())
def test_spacing_is_that_of_the_canonical_axes(geometry: Geometry) -> None:
    lengths = np.linalg.norm(geometry.canonical_affine[:3, :3], axis=0)
    assert geometry.spacing_mm == pytest.approx(tuple(lengths))


@settings(max_examples=100, deadline=None)
@given(geometries())
def test_json_keeps_every_digit(geometry: Geometry) -> None:
    assert Geometry.from_json(json.loads(json.dumps(geometry.to_json()))) == geometry


def test_axis_codes_say_where_the_files_axes_point() -> None:
    affine = np.array([[0, 0, -2, 0], [3, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])
    assert Geometry.of(affine, UNEVEN_SHAPE).axis_codes == "AIL"


def test_shape_and_spacing_follow_the_canonical_order() -> None:
    affine = np.array([[0, 0, -2, 0], [3, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])
    geometry = Geometry.of(affine, UNEVEN_SHAPE)
    assert geometry.shape_zyx == (4, 3, 5)
    assert geometry.spacing_mm == (1.0, 3.0, 2.0)


def test_canonical_arrays_lie_in_one_piece_of_memory() -> None:
    geometry = Geometry.of(np.diag([-1.0, -1.0, 1.0, 1.0]), UNEVEN_SHAPE)
    assert geometry.to_canonical(numbered(UNEVEN_SHAPE)).flags.c_contiguous


@pytest.mark.parametrize("shift_mm, same", [(0.0, True), (1e-3, True), (0.5, False)])
def test_the_same_grid_is_the_same_up_to_rounding(shift_mm: float, same: bool) -> None:
    moved = np.eye(4)
    moved[0, 3] = shift_mm
    geometry = Geometry.of(np.eye(4), UNEVEN_SHAPE)
    assert geometry.same_grid(Geometry.of(moved, UNEVEN_SHAPE)) is same


def test_another_shape_is_another_grid() -> None:
    geometry = Geometry.of(np.eye(4), UNEVEN_SHAPE)
    assert not geometry.same_grid(Geometry.of(np.eye(4), (3, 4, 6)))


@pytest.mark.parametrize(
    "affine",
    [
        np.diag([1, 1, np.nan, 1]),
        np.diag([1, np.inf, 1, 1]),
        np.diag([1.0, 0, 1, 1]),
        np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
        np.eye(3),
    ],
    ids=["not a number", "infinite", "no spacing", "flat", "3 x 3"],
)
def test_an_affine_that_is_no_grid_is_refused(affine: np.ndarray) -> None:
    with pytest.raises(UserError) as error:
        Geometry.of(affine, UNEVEN_SHAPE)
    assert error.value.code == "bad-geometry"
