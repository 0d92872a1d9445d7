"""Annotated voxels to learn from, sampled again with every stroke.

Looking for the annotated voxels of a CT of 512 x 512 x 300 takes longer than a user should wait for an answer
to a stroke, and comparing them with those of before takes much of it. So only axial slices that have changed
are looked at again, and whoever knows which these can be says so.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from medssl.core.project.annotation import SURE_BACKGROUND, Annotation

MAX_VOXELS = 4096
"""Largest number of voxels per class; for background, as many from strokes and from complete slices."""


class Sample(NamedTuple):
    """Flat voxel indices, int64 (N,): those whose hash is below 2 ** (32 - halvings)."""

    voxels: np.ndarray
    halvings: int


class VoxelSampler:
    """Samples at most MAX_VOXELS annotated voxels per class.

    Voxels with the lowest Fibonacci hash are taken: they are spread evenly, and the same ones are sampled
    again after the next stroke.
    """

    def __init__(self, shape_zyx: Sequence[int]) -> None:
        self.annotation = Annotation(np.zeros(shape_zyx, np.uint8))
        self._slices: dict[int, dict[int, Sample]] = {}
        """By axial slice: samples of what is painted there, by label."""

    def update(self, annotation: Annotation, slices: Collection[int] | None = None) -> np.ndarray:
        """Sample an annotation, which may be edited meanwhile: it is copied first.

        Args:
            annotation: The annotation, labels uint8 (Z, Y, X).
            slices: Axial slices outside of which no label has changed since the last call; None for unknown.

        Returns:
            flat voxel index * 256 + class id (0 background), int64 (N,), sorted.
        """
        labels = self.annotation.labels
        self.annotation = Annotation(labels, annotation.complete)
        for z in range(len(labels)) if slices is None else slices:
            now, before = annotation.labels[z], labels[z]
            if not np.array_equal(now, before):
                before[...] = now
                self._slices[z] = _samples(before, z * before.size)
        painted: dict[int, list[Sample]] = {}
        for samples in self._slices.values():
            for label, sample in samples.items():
                painted.setdefault(label, []).append(sample)
        groups = [(label % SURE_BACKGROUND, _merged(samples)) for label, samples in painted.items()]
        groups.append((0, self._unpainted(annotation.complete)))
        return np.unique(np.concatenate([(voxels << 8) + label for label, voxels in groups]))

    def _unpainted(self, complete: Sequence[tuple[int, int]]) -> np.ndarray:
        """A sample of the unpainted voxels in complete slices, as flat indices."""
        labels = self.annotation.labels
        if not complete:
            return np.empty(0, np.int64)
        candidates = np.unique(np.concatenate([_slice_voxels(labels.shape, *item) for item in complete]))
        return _sample(candidates[labels.reshape(-1)[candidates] == 0]).voxels


def _samples(plane: np.ndarray, offset: int) -> dict[int, Sample]:
    """Samples of the painted voxels of an axial slice, by label."""
    flat = plane.reshape(-1)
    index = np.flatnonzero(flat)
    values = flat[index]
    return {int(value): _sample(index[values == value] + offset) for value in np.unique(values)}


def _merged(samples: Sequence[Sample]) -> np.ndarray:
    """The sample of all voxels that some samples are from."""
    halvings = max(sample.halvings for sample in samples)
    return _sample(np.concatenate([sample.voxels for sample in samples]), halvings).voxels


def _sample(index: np.ndarray, halvings: int = 0) -> Sample:
    """At most MAX_VOXELS of the flat indices. The fraction is a power of two, so that it rarely changes."""
    hashes = (index.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
    while True:
        low = hashes < (1 << 32 >> halvings)
        index, hashes = index[low], hashes[low]
        if len(index) <= MAX_VOXELS:
            return Sample(index, halvings)
        halvings += 1


@lru_cache(maxsize=512)
def _slice_voxels(shape_zyx: tuple[int, ...], axis: int, index: int) -> np.ndarray:
    """Flat indices of at most MAX_VOXELS voxels of a slice."""
    ranges = [np.arange(length) for length in shape_zyx]
    ranges[axis] = np.array([index])
    return _sample(np.ravel_multi_index(np.ix_(*ranges), shape_zyx).ravel()).voxels
