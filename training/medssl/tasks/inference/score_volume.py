"""Scores of a whole scan: on the device where they fit, else in a temporary file.

A scan is predicted slice by slice along several axes, and smoothed in mm afterwards, so its scores are
collected before anything is decided. They are kept as 16-bit integers: 2.5 GB instead of 5 at 512 x 512 x 800
voxels and six scores, and their sum over orientations does not depend on the order.
"""

from __future__ import annotations

import errno
import os
import tempfile
from types import TracebackType
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from medssl.core.errors import UserError
from medssl.nn.data.multiplanar import Order

ONE = 32_760
"""Stored value of a score of 1; one, two and three orientations divide it."""
MEMORY_BYTES = 1 << 30
"""Scores up to this size stay in memory (on a GPU up to half of its free memory), larger ones in a file."""
MAPPED_BYTES = 1 << 26
"""Bytes of the file that are mapped at a time: whole pages around what is touched count as memory of
the process."""
_AT_ONCE = 1 << 24
"""Bytes of zeros that are written at a time."""


class ScoreVolume:
    """Sum of the scores of all orientations of one scan.

    Args:
        shape: (slices, 1 + K, rows, columns) in work order.
        orientations: Number of orientations that will be added.
        device: Where the scores are computed.

    Raises:
        UserError: "disk-full" or "not-writable" if the temporary file cannot be made.
    """

    def __init__(self, shape: tuple[int, int, int, int], orientations: int, device: torch.device) -> None:
        self.shape, self._each, self._device = shape, ONE // orientations, device
        self._in_memory: Tensor | None = None
        self._file: BinaryIO | None = None
        if 2 * int(np.prod(shape)) <= _memory(device):
            self._in_memory = torch.zeros(shape, dtype=torch.int16, device=device)
        else:
            self._file = _reserved(2 * int(np.prod(shape)))

    def __enter__(self) -> ScoreVolume:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._in_memory = None
        if self._file is not None:
            self._file.close()

    def _stored(self, first: int, last: int) -> Tensor:
        """Scores of slices first..last - 1, int16 (last - first, 1 + K, rows, columns); writing changes them.

        The file is mapped anew each time, so that no more than these slices count as memory of the process.
        """
        if self._in_memory is not None:
            return self._in_memory[first:last]
        assert self._file is not None
        shape = (last - first, *self.shape[1:])
        return torch.from_numpy(
            np.memmap(self._file, np.int16, "r+", offset=first * self._slice_bytes, shape=shape)
        )

    @property
    def _slice_bytes(self) -> int:
        return 2 * int(np.prod(self.shape[1:]))

    def add(self, order: Order, first: int, scores: Tensor) -> None:
        """Add the scores of adjacent slices of one orientation.

        Args:
            order: The orientation, see `multiplanar.Order`.
            first: Number of the first of these slices in that orientation.
            scores: Softmax scores, (n, 1 + K, rows, columns) float in that orientation.
        """
        levels = (scores * self._each).round().to(torch.int16)
        # In work order: a box of the volume, of which `place` says where it begins.
        axes = [0 if axis == order[0] else 2 + order[1:].index(axis) for axis in (0, 1, 2)]
        box = levels.permute(axes[0], 1, axes[1], axes[2])
        place = [first if axis == order[0] else 0 for axis in (0, 1, 2)]
        rows, columns = (slice(place[axis], place[axis] + box.shape[1 + axis]) for axis in (1, 2))
        thickness = max(1, MAPPED_BYTES // self._slice_bytes) if self._file else len(box)
        for start in range(0, len(box), thickness):
            part = box[start : start + thickness]
            stored = self._stored(place[0] + start, place[0] + start + len(part))
            stored[:, :, rows, columns] += part.to(stored.device)

    def read(self, first: int, last: int) -> Tensor:
        """Mean scores of slices first..last - 1, float32 (last - first, 1 + K, rows, columns)."""
        return self._stored(first, last).to(self._device).float().div_(ONE)

    def read_class(self, label: int, first: int, last: int) -> Tensor:
        """Mean scores of one class, 0 .. K, as `read`; float32 (last - first, rows, columns)."""
        return self._stored(first, last)[:, label].to(self._device).float().div_(ONE)


def _memory(device: torch.device) -> int:
    """Bytes that scores may take on a device."""
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else MEMORY_BYTES


def _reserved(size: int) -> BinaryIO:
    """A temporary file of zeros that vanishes with the process.

    It gets its room on the disk at once: a mapped file for which there is none left ends the process.
    """
    file = tempfile.TemporaryFile(prefix="medssl-scores-")  # noqa: SIM115, the volume closes it
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            for start in range(0, size, _AT_ONCE):
                file.write(bytes(min(_AT_ONCE, size - start)))
            file.flush()
    except OSError as error:
        file.close()
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise UserError(
            f"Predicting this scan takes {size / 1e9:.1f} GB of temporary space in {tempfile.gettempdir()} "
            f"({error.strerror or error}); free some space there, or set TMPDIR to a folder on another disk.",
            code="disk-full" if full else "not-writable",
        ) from error
    return file
