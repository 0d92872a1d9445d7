"""What a step of undo has changed in the interpolated labels, in little memory."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

FASTEST = 1
"""Compression level; labels are mostly runs of one number."""


@dataclass
class FillChange:
    """The part of the interpolated labels that differs, as it was on the other side of the step.

    Attributes:
        box: Where they differ, a slice along each of (Z, Y, X).
        content: The labels in the box, uint8, compressed.
    """

    box: tuple[slice, ...]
    content: bytes

    @classmethod
    def between(cls, before: np.ndarray | None, after: np.ndarray | None) -> FillChange | None:
        """The change from one volume of labels to another.

        Args:
            before: Interpolated labels, uint8 (Z, Y, X); None for none.
            after: Those that take their place, uint8 (Z, Y, X); None for none.

        Returns:
            None where nothing differs.
        """
        first, second = (0 if labels is None else labels for labels in (before, after))
        differs = np.atleast_1d(np.not_equal(first, second))
        if not differs.any():
            return None
        box = tuple(_span(np.any(np.moveaxis(differs, axis, 0), (1, 2))) for axis in range(3))
        return cls(box, _packed(np.zeros(differs[box].shape, np.uint8) if before is None else before[box]))

    @classmethod
    def of_slice(cls, labels: np.ndarray, axis: int, index: int) -> FillChange | None:
        """What a slice loses that becomes complete; None if it has no interpolated labels.

        Args:
            labels: The interpolated labels, uint8 (Z, Y, X).
            axis: Canonical axis across the slice.
            index: Number of the slice.
        """
        box = tuple(slice(index, index + 1) if each == axis else slice(None) for each in range(3))
        return cls(box, _packed(labels[box])) if labels[box].any() else None

    def swap(self, labels: np.ndarray | None, painted: np.ndarray) -> np.ndarray | None:
        """Put the labels of the other side back where nobody has painted, and keep those of this side.

        Args:
            labels: The interpolated labels, uint8 (Z, Y, X), which are changed; None for none.
            painted: The annotation, uint8 (Z, Y, X).

        Returns:
            The interpolated labels; None where none are left.
        """
        labels = np.zeros_like(painted) if labels is None else labels
        here = labels[self.box]
        content = np.frombuffer(zlib.decompress(self.content), np.uint8).reshape(here.shape)
        self.content = _packed(here)
        here[...] = np.where(painted[self.box] == 0, content, 0)
        return labels if labels.any() else None


def _span(differs: np.ndarray) -> slice:
    """From the first to the last place where something differs."""
    places = np.flatnonzero(differs)
    return slice(int(places[0]), int(places[-1]) + 1)


def _packed(labels: np.ndarray) -> bytes:
    return zlib.compress(labels.tobytes(), FASTEST)
