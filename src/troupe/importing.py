"""The first import of PyTorch takes seconds: it is announced where somebody watches, and Ctrl-C waits for its end."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_TEXT = "importing PyTorch and Gymnasium ..."


@contextmanager
def announced() -> Iterator[None]:
    """Shows a line on a terminal and in a notebook while PyTorch is imported inside; it is removed afterwards."""
    watched = "ipykernel" in sys.modules or bool(getattr(sys.stdout, "isatty", bool)())
    if "torch" in sys.modules or not watched:
        yield
        return
    print(_TEXT, end="\r", flush=True)
    try:
        yield
    finally:
        print(" " * len(_TEXT), end="\r", flush=True)


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """An interrupt (SIGINT) that comes inside is raised at the end: PyTorch cannot be imported again after a half."""
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def keep(number: int, _: FrameType | None) -> None:
        came.append(number)

    signal.signal(signal.SIGINT, keep)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)
