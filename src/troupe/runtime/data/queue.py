"""The rollout queue: a fixed set of rollouts that circulate between actors and learners."""

import threading
from collections import deque
from collections.abc import Sequence

from troupe.runtime.data.rollout import Rollout
from troupe.runtime.execution.gate import Closed


class RolloutQueue:
    """Bounded by the rollouts it was made with, first in first out, and closable from anywhere.

    An actor acquires an empty rollout, fills it in place and puts it; a learner gets full ones and
    releases them. Nothing is allocated, and `close()` makes every call raise Closed, also those that wait.
    """

    def __init__(self, rollouts: Sequence[Rollout]):
        self.capacity = len(rollouts)
        self._free = deque(rollouts)
        self._full: deque[Rollout] = deque()
        self._closed = False
        self._least = 1
        lock = threading.Lock()
        self._freed, self._filled = threading.Condition(lock), threading.Condition(lock)

    def acquire(self) -> Rollout:
        """An empty rollout; waits for one."""
        with self._freed:
            self._freed.wait_for(lambda: self._free or self._closed)
            if self._closed:
                raise Closed
            return self._free.popleft()

    def acquire_within(self, seconds: float) -> Rollout | None:
        """An empty rollout, or None where there is none after at most that long."""
        with self._freed:
            self._freed.wait_for(lambda: self._free or self._closed, seconds)
            if self._closed:
                raise Closed
            return self._free.popleft() if self._free else None

    def put(self, rollout: Rollout) -> None:
        with self._filled:
            if self._closed:
                raise Closed
            self._full.append(rollout)
            if len(self._full) >= self._least:  # with fewer a learner would only go back to sleep
                self._filled.notify()

    def get(self, least: int, take_all: bool = False) -> list[Rollout]:
        """The `least` oldest rollouts, or all that there are; waits until there are that many.

        All learners of a queue ask for the same number.
        """
        with self._filled:
            self._least = least
            self._filled.wait_for(lambda: len(self._full) >= least or self._closed)
            if self._closed:
                raise Closed
            return [self._full.popleft() for _ in range(len(self._full) if take_all else least)]

    def get_within(self, seconds: float, most: int) -> list[Rollout]:
        """The oldest rollouts, at most `most`; waits at most that long for the first. For a queue's only reader."""
        with self._filled:
            self._filled.wait_for(lambda: self._full or self._closed, seconds)
            if self._closed:
                raise Closed
            return [self._full.popleft() for _ in range(min(most, len(self._full)))]

    def release(self, rollouts: Sequence[Rollout]) -> None:
        with self._freed:
            self._free.extend(rollouts)
            self._freed.notify(len(rollouts))

    def close(self) -> None:
        with self._freed:
            self._closed = True
            self._freed.notify_all()
            self._filled.notify_all()

    @property
    def depth(self) -> int:
        """The number of rollouts that wait for a learner."""
        return len(self._full)
