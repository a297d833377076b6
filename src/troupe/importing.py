"""What takes seconds before the first line is announced on a terminal: the import of PyTorch, for whose end Ctrl-C
waits, and measurements."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def announced(text: str) -> Iterator[None]:
    """Shows a line on a terminal and in a notebook while something takes long inside; it is removed afterwards."""
    if not ("ipykernel" in sys.modules or bool(getattr(sys.stdout, "isatty", bool)())):
        yield
        return
    print(text, end="\r", flush=True)
    try:
        yield
    finally:
        print(" " * len(text), end="\r", flush=True)


@contextmanager
def import_announced() -> Iterator[None]:
    """The same while PyTorch is imported inside, for the first time."""
    if "torch" in sys.modules:
        yield
        return
    with announced("importing PyTorch and Gymnasium ..."):
        yield


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """An interrupt (SIGINT) inside is raised at the end: a half-imported PyTorch cannot be imported again."""
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
