"""One switch for all parts of a run: go on, wait, or stop."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Closed(Exception):
    """The run is over: whoever hears this, wherever it was waiting, ends in order."""


class Gate:
    """Parts call `check` between steps. Whoever holds `paused` has the machine to itself, but for steps
    already begun; `stop` lets everybody through, into Closed."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self.stopped = False

    def check(self) -> None:
        self._open.wait()
        if self.stopped:
            raise Closed

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
