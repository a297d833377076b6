"""Signals, and work that a signal can interrupt."""

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from types import FrameType
from typing import Generic, TypeVar

from troupe import signals
from troupe.runtime.execution.hang_detector import stack_of
from troupe.torch_threads import apply_torch_threads

T = TypeVar("T")
POLL_SECONDS = 0.05  # between two checks for an interruption
_PATIENCE_SECONDS = 1.0


@contextmanager
def on_signal(act: Callable[[int], None]) -> Iterator[None]:
    """Calls `act` with the first SIGINT, SIGTERM or SIGHUP; a second one has its ordinary effect."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _: FrameType | None) -> None:
        for each, old in before.items():
            signal.signal(each, old or signal.SIG_DFL)
        act(number)

    before = {number: signal.signal(number, handle) for number in signals.ending()}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old or signal.SIG_DFL)


def is_interrupt(error: BaseException | None) -> bool:
    """Whether it is KeyboardInterrupt, or what a lock raised that was interrupted by one while it was released."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


class BackgroundWork(Generic[T]):
    """Work in a thread of its own, which can be abandoned if it never ends."""

    def __init__(self, work: Callable[[], T], name: str = "interruptible"):
        self._work = work
        self._done: Future[T] = Future()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def wait(self, seconds: float = POLL_SECONDS) -> bool:
        """Whether the work is done, after at most that long."""
        wait([self._done], seconds)
        return self._done.done()

    def result(self) -> T:
        """The result, once the work is done; raises what the work raised."""
        return self._done.result()

    def stack(self) -> list[str]:
        """The thread's stack, innermost call first."""
        return stack_of(self._thread)

    def _run(self) -> None:
        apply_torch_threads()
        try:
            self._done.set_result(self._work())
        except BaseException as error:
            self._done.set_exception(error)


def run_interruptible(work: Callable[[], T], given_up: Callable[[], bool]) -> T | None:
    """The result of `work`, done in a thread of its own; None if `given_up()` became true and it did not end soon."""
    begun = BackgroundWork(work)
    while not begun.wait() and not given_up():
        pass
    return begun.result() if begun.wait(_PATIENCE_SECONDS) else None
