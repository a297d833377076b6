"""A few threads that share the work of one."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

from troupe.torch_threads import apply_torch_threads

A = TypeVar("A")
B = TypeVar("B")


class ThreadPool:
    """`size` threads, the caller's among them.

    Each does a part and sleeps until the next: unlike torch's own threads, which spin at their barriers
    and starve beside any other busy thread, these leave the cores to whoever has work.
    """

    def __init__(self, size: int):
        self.size = size
        self._others = ThreadPoolExecutor(size - 1, "learner-pool", apply_torch_threads) if size > 1 else None

    def map(self, work: Callable[[A], B], items: Sequence[A]) -> list[B]:
        """[work(item) for item in items], the first by the caller, all at the same time; what one raises is raised."""
        if self._others is None:
            return [work(item) for item in items]
        others = [self._others.submit(work, item) for item in items[1:]]
        try:
            first = work(items[0])
        finally:
            wait(others)  # nobody works on when this returns
        return [first, *(other.result() for other in others)]

    def close(self) -> None:
        if self._others:
            self._others.shutdown(wait=False)
