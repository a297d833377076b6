"""One switch for all threads and processes of a run: continue, pause or stop."""

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np

from troupe.runtime.data.shared_memory import Block
from troupe.runtime.progress import PAUSE, Stopwatch

_LOOK_SECONDS = 0.001


class Closed(Exception):
    """The run is over: raised wherever a thread waits, so that it ends."""


class Retired(Closed):
    """This thread was replaced while it did not answer; it ends, and the run continues without it."""


class Gate:
    """Parts do each step inside `with gate.turn()`. Whoever holds `paused` has the machine to itself, but
    for steps already begun; `stop` lets everybody through, into Closed.

    With `one_at_a_time`, only one thread is inside a turn. Threads share one interpreter lock, which
    torch gives away at every operation; where operations take microseconds, handing it round costs many
    times what they do, and threads that wait for each other's turns are faster than threads that compete.

    `switches` say both to actors in other processes, where a `RemoteGate` looks at them.
    """

    def __init__(self, *, one_at_a_time: bool = False, shared: bool = False) -> None:
        self._open = threading.Event()
        self._open.set()
        self._lock: AbstractContextManager[object] = threading.Lock() if one_at_a_time else nullcontext()
        self.switches = Block({"stopped": ((1,), np.bool_), "paused": ((1,), np.bool_)}, shared=shared)
        self.stopped = False

    @contextmanager
    def turn(self, watch: Stopwatch | None = None) -> Iterator[None]:
        """`watch` counts the time until the turn comes."""
        watch = watch or Stopwatch()
        stage = watch.stage
        watch.start(PAUSE)
        self._open.wait()
        watch.start("turn")
        with self._lock:
            watch.start(stage)
            if self.stopped:
                raise Closed
            yield

    @property
    def is_paused(self) -> bool:
        return not self._open.is_set()

    def stop(self) -> None:
        self.stopped = True
        self.switches["stopped"][0] = True
        self._open.set()

    @contextmanager
    def paused(self) -> Iterator[None]:
        if not self.stopped:
            self._open.clear()
            self.switches["paused"][0] = True
        try:
            yield
        finally:
            self.switches["paused"][0] = False
            self._open.set()


class RemoteGate:
    """The gate as an actor in another process sees it. It looks instead of waiting: no lock is shared
    between processes, for one that is killed could never give it back."""

    def __init__(self, switches: Block):
        self._stopped, self._paused = switches["stopped"], switches["paused"]

    @property
    def stopped(self) -> bool:
        return bool(self._stopped[0])

    @contextmanager
    def turn(self, watch: Stopwatch | None = None) -> Iterator[None]:
        if self._paused[0]:
            watch = watch or Stopwatch()
            stage = watch.stage
            watch.start(PAUSE)
            while self._paused[0] and not self._stopped[0]:
                time.sleep(_LOOK_SECONDS)
            watch.start(stage)
        if self._stopped[0]:
            raise Closed
        yield
