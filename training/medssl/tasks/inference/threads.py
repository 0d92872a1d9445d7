"""Slices on several threads of a CPU.

Several slices at a time, each on one thread, are faster than several threads on one slice: those wait for
each other after each layer, which costs a multiple whenever another program, like the viewer, needs a core.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

N = TypeVar("N")
T = TypeVar("T")


def in_order(work: Callable[[N], T], items: Iterable[N], threads: int) -> Iterator[T]:
    """The results of `work` for each item in order, computed on several threads with one torch thread each.

    Args:
        work: Called with an item. It enters inference mode, and what else holds for one thread, by itself.
        items: The items.
        threads: Number of items at a time; that many results may wait.

    Yields:
        What `work` returns.
    """
    if threads == 1:
        yield from map(work, items)
        return
    with (
        one_thread(),
        ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as executor,
    ):
        running: deque[Future[T]] = deque()
        for item in items:
            running.append(executor.submit(work, item))
            if len(running) > threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread only."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
