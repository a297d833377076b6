"""Threads that share the work of a learner."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

from troupe.torch_threads import apply_torch_threads

A = TypeVar("A")
B = TypeVar("B")


class ThreadPool:
    """`size` threads, including the caller's.

    They sleep when they have no work, so the cores are free for others: torch's own threads spin at their barriers and
    starve beside any other busy thread.
    """

    def __init__(self, size: int):
        self.size = size
        self._others = ThreadPoolExecutor(size - 1, "learner-pool", apply_torch_threads) if size > 1 else None

    def map(self, work: Callable[[A], B], items: Sequence[A]) -> list[B]:
        """[work(item) for item in items], all at the same time, the first in the caller's thread; raises what one
        raises."""
        if self._others is None:
            return [work(item) for item in items]
        others = [self._others.submit(work, item) for item in items[1:]]
        try:
            first = work(items[0])
        finally:
            wait(others)  # no thread is still at work when this returns
        return [first, *(other.result() for other in others)]

    def close(self) -> None:
        if self._others:
            self._others.shutdown(wait=False)
