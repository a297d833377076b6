"""Pauses and stops all threads and processes of a run."""

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np

from troupe.runtime.data.shared_memory import Block
from troupe.runtime.progress import PAUSE, Stopwatch

_POLL_SECONDS = 0.001


class Closed(Exception):
    """The run is over: raised wherever a thread waits, so that the thread ends."""


class Retired(Closed):
    """This thread was replaced while its environment hung; it ends, and the run continues without it."""


class Gate:
    """Workers do each step inside `with gate.turn()`. Inside `with gate.paused()` no new step begins; after `stop`
    every turn raises Closed.

    With `one_at_a_time`, only one thread is inside a turn. Threads share Python's interpreter lock, where it has one,
    and torch releases that at every operation; where operations take microseconds, handing the lock over takes many
    times as long, and threads that take turns are faster than threads that compete.

    `switches` are for actors in other processes, where a `RemoteGate` reads them.
    """

    def __init__(self, *, one_at_a_time: bool = False, shared: bool = False) -> None:
        self._open = threading.Event()
        self._open.set()
        self._lock: AbstractContextManager[object] = threading.Lock() if one_at_a_time else nullcontext()
        self.switches = Block({"stopped": ((1,), np.bool_), "paused": ((1,), np.bool_)}, shared=shared)
        self.stopped = False

    @contextmanager
    def turn(self, watch: Stopwatch | None = None) -> Iterator[None]:
        """`watch` counts the time until the turn begins."""
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
    """The gate of an actor in another process. It polls: no lock is shared between processes, as one that is killed
    could not release it."""

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
                time.sleep(_POLL_SECONDS)
            watch.start(stage)
        if self._stopped[0]:
            raise Closed
        yield
