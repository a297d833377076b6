"""One switch for all parts of a run: go on, wait, or stop."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext


class Closed(Exception):
    """The run is over: whoever hears this, wherever it was waiting, ends in order."""


class Gate:
    """Parts do each step inside `with gate.turn()`. Whoever holds `paused` has the machine to itself, but
    for steps already begun; `stop` lets everybody through, into Closed.

    With `one_at_a_time`, only one thread is inside a turn. Threads share one interpreter lock, which
    torch gives away at every operation; where operations take microseconds, handing it round costs many
    times what they do, and threads that wait for each other's turns are faster than threads that compete.
    """

    def __init__(self, *, one_at_a_time: bool = False) -> None:
        self._open = threading.Event()
        self._open.set()
        self._lock: AbstractContextManager[object] = threading.Lock() if one_at_a_time else nullcontext()
        self.stopped = False

    @contextmanager
    def turn(self) -> Iterator[None]:
        self._open.wait()
        with self._lock:
            if self.stopped:
                raise Closed
            yield

    def stop(self) -> None:
        self.stopped = True
        self._open.set()

    @contextmanager
    def paused(self) -> Iterator[None]:
        if not self.stopped:
            self._open.clear()
        try:
            yield
        finally:
            self._open.set()
