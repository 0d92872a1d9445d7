"""Voxels to learn from: those of the target, spread evenly, and the same ones after the next stroke."""

from __future__ import annotations

import numpy as np
from medssl.core.features import voxel_sampler
from medssl.core.features.voxel_sampler import VoxelSampler
from medssl.core.project.annotation import IGNORE, SURE_BACKGROUND, Annotation


def sampled(annotation: Annotation) -> np.ndarray:
    return VoxelSampler(annotation.labels.shape).update(annotation)


def test_painted_voxels_are_those_of_the_target() -> None:
    labels = np.zeros((5, 6, 7), np.uint8)
    labels[1, 2, 3:6], labels[4, 5, 6], labels[3, 0, 0] = 4, SURE_BACKGROUND, 9
    annotation = Annotation(labels, ((0, 1), (2, 0)))
    target = annotation.target().ravel()
    where = np.flatnonzero(target != IGNORE)
    assert np.array_equal(sampled(annotation), where * 256 + target[where])


def test_the_sample_of_a_class_is_limited_and_stable(monkeypatch) -> None:
    monkeypatch.setattr(voxel_sampler, "MAX_VOXELS", 100)
    labels = np.zeros((20, 30, 40), np.uint8)
    labels[:, :15] = 1
    before = sampled(Annotation(labels))
    assert 50 < len(before) <= 100
    labels[0, 20, :5] = 1
    after = sampled(Annotation(labels))
    assert len(np.intersect1d(before, after)) == len(before)
    rows = np.unravel_index(before >> 8, labels.shape)[1]
    assert rows.max() > 12 and rows.min() < 3, "spread over all of it"


def test_slices_with_much_and_little_paint_count_alike(monkeypatch) -> None:
    """As if the lowest hashes were taken from all voxels at once, whatever a slice alone would give."""
    monkeypatch.setattr(voxel_sampler, "MAX_VOXELS", 100)
    labels = np.zeros((4, 30, 40), np.uint8)
    labels[0], labels[1, :3], labels[2, 0, :5], labels[3, :20] = 1, 1, 1, 1
    index = np.flatnonzero(labels)
    hashes = (index.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
    chosen = next(
        index[hashes < (1 << 32 >> halvings)]
        for halvings in range(32)
        if (hashes < (1 << 32 >> halvings)).sum() <= 100
    )
    assert np.array_equal(sampled(Annotation(labels)), chosen * 256 + 1)


def test_an_incremental_update_equals_a_new_sample() -> None:
    random = np.random.default_rng(0)
    labels = np.zeros((6, 20, 20), np.uint8)
    sampler = VoxelSampler(labels.shape)
    for number in range(12):
        corner = random.integers(0, 5, 3)
        box = tuple(slice(start, start + 1 + number % 4) for start in corner)
        labels[box] = random.choice([0, 1, 2, 255])
        annotation = Annotation(labels, ((0, 2), (1, 7)) if number % 3 else ())
        assert np.array_equal(sampler.update(annotation), sampled(annotation))


def test_painting_goes_on_meanwhile() -> None:
    labels = np.zeros((2, 4, 4), np.uint8)
    labels[0, 0] = 1
    sampler = VoxelSampler(labels.shape)
    sampler.update(Annotation(labels))
    labels[1] = 2
    assert np.unique(sampler.annotation.labels).tolist() == [0, 1]


def test_only_the_slices_that_may_have_changed_are_looked_at() -> None:
    labels = np.zeros((3, 4, 5), np.uint8)
    sampler = VoxelSampler(labels.shape)
    labels[0, 0, 0] = labels[2, 3, 4] = 1
    assert sampler.update(Annotation(labels), slices=[2]).tolist() == [59 * 256 + 1]
    assert sampler.update(Annotation(labels)).tolist() == [1, 59 * 256 + 1]
