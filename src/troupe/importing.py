"""What takes seconds before the first line is announced: the import of PyTorch, for whose end Ctrl-C waits, and
measurements."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType


@contextmanager
def announced(text: str, *, in_files: bool = False) -> Iterator[None]:
    """Shows a line on a terminal and in a notebook while something takes long inside; it is removed afterwards.

    `in_files`: in a file or a pipe, too, where it stays.
    """
    if not ("ipykernel" in sys.modules or bool(getattr(sys.stdout, "isatty", bool)())):
        if in_files:
            _write(f"{text}\n")
        yield
        return
    _write(f"{text}\r")
    try:
        yield
    finally:
        _write(f"{' ' * len(text)}\r")


def _write(text: str) -> None:
    with suppress(OSError, ValueError):  # a reader that has gone, or a full disk, ends no run
        print(text, end="", flush=True)


@contextmanager
def import_announced(*, in_files: bool = False) -> Iterator[None]:
    """The same while PyTorch is imported inside, for the first time."""
    if "torch" in sys.modules:
        yield
        return
    with announced("importing PyTorch and Gymnasium ...", in_files=in_files):
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
