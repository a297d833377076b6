"""Signals, and work that can be given up when one comes."""

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from troupe.torch_threads import heed_torch_threads

T = TypeVar("T")
LOOK_SECONDS = 0.05  # how often whoever can be interrupted looks whether it was
_PATIENCE_SECONDS = 1.0


@contextmanager
def on_signal(act: Callable[[int], None]) -> Iterator[None]:
    """Answers the first SIGINT or SIGTERM with `act`; a second one has its ordinary effect."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _: FrameType | None) -> None:
        for each, old in before.items():
            signal.signal(each, old or signal.SIG_DFL)
        act(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old or signal.SIG_DFL)


def apart(work: Callable[[], T], given_up: Callable[[], bool]) -> T | None:
    """Does `work` in a thread of its own, and raises what it raises; None once it is given up and does not end."""
    done: Future[T] = Future()

    def run() -> None:
        heed_torch_threads()
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="apart", daemon=True).start()
    while not done.done() and not given_up():
        wait([done], LOOK_SECONDS)
    wait([done], _PATIENCE_SECONDS)
    return done.result() if done.done() else None
