"""The C library's allocator, set for arrays of megabytes that come and go in every layer of a network."""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Numbers of the parameters in glibc's malloc.h."""
_KEPT_BYTES = (64 << 20, 32 << 20)
"""Largest array that is kept when it is freed; glibc before 2.35 refuses the first."""


def keep_freed_memory() -> None:
    """Let this process keep freed memory for its next arrays; does nothing where the C library is not glibc.

    glibc gives large arrays back to the system as soon as they are freed. Each layer of a network then gets
    new pages, which the system has to fill with zeros: a third of the time of a slice of 512 x 512 pixels
    (docs/benchmarks/full_size.md). Arrays of whole scans are still given back. All threads share what is
    kept: by default each would keep its own.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    any(library.mallopt(_MMAP_THRESHOLD, size) for size in _KEPT_BYTES)
    library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    library.mallopt(_ARENA_MAX, 1)
