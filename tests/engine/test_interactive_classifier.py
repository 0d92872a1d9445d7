"""The instant preview: strokes say what tissue is, in the right places, and each of them counts."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from medssl.core.errors import UserError
from medssl.core.features import interactive_classifier
from medssl.core.features.interactive_classifier import (
    Learner,
    LinearClassifier,
    fit,
    outlines,
    slice_fourier_features,
    slice_scores,
    slice_target,
)
from medssl.core.features.similarity import FeatureCache
from medssl.core.project.annotation import IGNORE, SURE_BACKGROUND, Annotation

SHAPE, STEP = (12, 40, 32), (1, 2, 2)
ORGAN = (slice(2, 10), slice(10, 26), slice(8, 24))


def tissue(step: tuple[int, int, int] = STEP, noise: float = 0.05) -> tuple[FeatureCache, np.ndarray]:
    """Features that tell an organ from what is around it, and the organ: uint8 (Z, Y, X)."""
    truth = np.zeros(SHAPE, np.uint8)
    truth[ORGAN] = 1
    cells = truth[tuple(slice(each // 2, None, each) for each in step)]
    kinds = np.random.default_rng(0).standard_normal((2, 8))
    vectors = kinds[cells] + noise * np.random.default_rng(1).standard_normal((*cells.shape, 8))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    return FeatureCache("scan", "run", vectors.astype(np.float16), step, SHAPE), truth


def scribbles(truth: np.ndarray) -> np.ndarray:
    """A stroke in the organ and one around it, both in one slice."""
    labels = np.zeros_like(truth)
    labels[6, 18, 12:20] = 1
    labels[6, 4, 3:30] = SURE_BACKGROUND
    labels[6, 34, 3:30] = SURE_BACKGROUND
    return labels


def classified(cache: FeatureCache, annotation: Annotation, axis: int, index: int) -> np.ndarray:
    """What the probe says about each voxel of a slice."""
    learner = Learner(cache)
    learner.update(annotation)
    classifier = fit(learner.moments)
    scores = slice_scores(cache, slice_fourier_features(cache, axis, index), classifier, axis)
    return np.array(classifier.classes)[scores.argmax(0)]


def dice(one: np.ndarray, two: np.ndarray) -> float:
    return 2 * float((one & two).sum()) / float(one.sum() + two.sum())


@pytest.mark.parametrize(("axis", "index"), [(0, 5), (1, 18), (2, 15)])
def test_a_few_strokes_recover_tissue_that_features_tell_apart(axis: int, index: int) -> None:
    cache, truth = tissue()
    found = classified(cache, Annotation(scribbles(truth)), axis, index)
    assert dice(found == 1, truth.take(index, axis) == 1) > 0.85


def test_a_class_painted_thirty_times_less_is_not_swallowed() -> None:
    cache, truth = tissue(noise=0.5)
    labels = np.zeros_like(truth)
    labels[6, 18, 12:20] = 1
    found = classified(cache, Annotation(labels, complete=((0, 0), (0, 11))), 0, 6)
    assert found[ORGAN[1:]].mean() > 0.9


def test_an_unpainted_part_of_a_complete_slice_is_background() -> None:
    cache, truth = tissue()
    labels = np.zeros_like(truth)
    labels[6] = truth[6]
    found = classified(cache, Annotation(labels, complete=((0, 6),)), 0, 4)
    assert dice(found == 1, truth[4] == 1) > 0.85


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("step", [(1, 1, 1), (1, 2, 4), (2, 3, 5)])
def test_scores_lie_where_their_cells_are(axis: int, step: tuple[int, int, int], monkeypatch) -> None:
    """A score that grows with a voxel's place is found again at that place, on any grid and in any slice."""
    places = np.meshgrid(
        *[
            (np.arange(-(-length // each)) + 0.5) * each - 0.5
            for length, each in zip(SHAPE, step, strict=True)
        ],
        indexing="ij",
    )
    cache = FeatureCache("scan", "run", np.stack(places, -1).astype(np.float16), step, SHAPE)
    monkeypatch.setattr(interactive_classifier, "extended_features", lambda vectors, place, shape: vectors)
    classifier = LinearClassifier((0, 1, 2), np.eye(3, dtype=np.float32))
    index = SHAPE[axis] // 2
    scores = slice_scores(cache, slice_fourier_features(cache, axis, index), classifier, axis)
    true = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij")).take(index, axis + 1)
    inside = tuple(
        slice(each, length - each)
        for other, (length, each) in enumerate(zip(SHAPE, step, strict=True))
        if other != axis
    )
    assert np.abs(scores - true)[(slice(None), *inside)].max() < 1e-3
    assert np.abs(scores - true).max() <= max(step) / 2, "beyond the outermost centres scores are constant"


def test_outlines_run_along_the_organ_to_half_a_cell() -> None:
    cache, truth = tissue(noise=0)
    learner = Learner(cache)
    learner.update(Annotation(truth + SURE_BACKGROUND * (truth == 0).astype(np.uint8)))
    classifier = fit(learner.moments)
    scores = slice_scores(cache, slice_fourier_features(cache, 0, 5), classifier, 0)
    line = outlines(scores, classifier, np.full(SHAPE[1:], IGNORE, np.uint8))[1]
    edges = [(span.start - 0.5, span.stop - 0.5) for span in ORGAN[1:]]
    for along, step in ((0, STEP[1]), (1, STEP[2])):
        assert line[..., along].min() == pytest.approx(edges[along][0], abs=step / 2)
        assert line[..., along].max() == pytest.approx(edges[along][1], abs=step / 2)
    assert np.array_equal(line[:-1, 1], line[1:, 0]), "one closed line"


def test_strokes_win_in_the_outlines() -> None:
    classifier = LinearClassifier((0, 1), np.zeros((1, 2), np.float32))
    scores = np.stack([np.ones((9, 9), np.float32), np.zeros((9, 9), np.float32)])
    painted = np.full((9, 9), IGNORE, np.uint8)
    assert not outlines(scores, classifier, painted)
    painted[3:6, 2:7] = 1
    line = outlines(scores, classifier, painted)[1]
    assert line.min((0, 1)) == pytest.approx((2.5, 1.5)) and line.max((0, 1)) == pytest.approx((5.5, 6.5))


def test_painting_over_changes_the_answer_as_if_it_had_never_been_otherwise() -> None:
    cache, truth = tissue()
    labels = scribbles(truth)
    learner, fresh = Learner(cache), Learner(cache)
    wrong = labels.copy()
    wrong[6, 18, 12:20] = 2
    wrong[8, 30, :] = 1
    learner.update(Annotation(wrong, ((1, 3),)))
    assert fit(learner.moments).classes == (0, 1, 2)
    assert learner.update(Annotation(labels)) and fresh.update(Annotation(labels))
    assert not learner.update(Annotation(labels)), "nothing changed"
    again, first = fit(learner.moments), fit(fresh.moments)
    assert again.classes == first.classes == (0, 1)
    # What is left over of sums in float64, some 1e-14, the solution multiplies by its condition, some 1e3:
    # beside the rounding of the weights to float32 (6e-8) that is nothing.
    assert again.weights == pytest.approx(first.weights, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_painted_plane_is_that_of_the_whole_target(axis: int) -> None:
    labels = np.random.default_rng(0).choice(np.array([0, 0, 1, 2, 255], np.uint8), (5, 6, 7))
    annotation = Annotation(labels, ((0, 2), (1, 3), (2, 2), (axis, 4)))
    for index in (2, 3, 4):
        assert np.array_equal(slice_target(annotation, axis, index), annotation.target().take(index, axis))


@pytest.mark.parametrize("value", [0, 1])
def test_nothing_to_learn_from_is_one_sentence(value: int) -> None:
    cache, truth = tissue()
    learner = Learner(cache)
    learner.update(Annotation((value * (scribbles(truth) == 1)).astype(np.uint8)))
    with pytest.raises(UserError, match="needs two classes") as error:
        fit(learner.moments)
    assert error.value.code == "nothing-to-learn" and str(error.value).endswith(".")


def test_another_scan_s_strokes_help_where_this_one_has_none() -> None:
    cache, truth = tissue()
    other = Learner(cache)
    other.update(Annotation(scribbles(truth)))
    assert fit({}, [other.moments]).classes == (0, 1)


def test_other_scans_never_weigh_more_than_this_one() -> None:
    cache, truth = tissue()
    own, other = Learner(cache), Learner(cache)
    own.update(Annotation(scribbles(truth)))
    upside_down = np.where(truth == 1, SURE_BACKGROUND, 1).astype(np.uint8)
    other.update(Annotation(upside_down))
    classifier = fit(own.moments, [other.moments] * 5)
    rows = slice_scores(cache, slice_fourier_features(cache, 0, 6), classifier, 0)
    fives, once = fit(own.moments, [other.moments] * 5), fit(own.moments, [other.moments])
    assert fives.weights == pytest.approx(once.weights, rel=1e-2, abs=1e-2)
    assert rows.shape == (2, *SHAPE[1:])


def test_a_slice_outside_of_the_scan_is_refused() -> None:
    cache, _ = tissue()
    with pytest.raises(UserError) as error:
        slice_fourier_features(cache, 0, SHAPE[0])
    assert error.value.code == "outside"


def test_it_needs_no_torch() -> None:
    assert interactive_classifier.__name__ in sys.modules
    assert not any("torch" in name for name in vars(interactive_classifier))
