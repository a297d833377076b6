"""Starts processes from a server that has imported torch once, without the terminal's signals."""

import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import util
from typing import Any

from troupe import signals

NO_PROCESSES = "this is a daemonic process, such as a worker of multiprocessing.Pool, which may not start processes"


def may_have_processes() -> bool:
    return not multiprocessing.current_process().daemon


def warm_up() -> None:
    """Starts the server of processes, which imports in the background what they have in common."""
    if os.name == "posix":
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()  # first: its start unblocks the signals that are blocked below
    if _method() == "forkserver":
        from multiprocessing import forkserver

        forkserver.set_forkserver_preload(["troupe.runtime.execution.process_child"])
        with signals_blocked():
            forkserver.ensure_running()


def _method() -> str:
    # Forking a server that has no threads and has imported torch takes 20 ms; a new interpreter 1.5 s.
    return "forkserver" if sys.platform == "linux" else "spawn"


def process_context() -> Any:
    warm_up()
    return multiprocessing.get_context(_method())


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Processes that are started inside do not get the terminal's Ctrl-C or hangup: this process does, and ends
    them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals.ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_starting = threading.Lock()


@contextmanager
def no_main() -> Iterator[None]:
    """Keeps multiprocessing from importing the user's script in every process, which it does for objects that were
    pickled by name. Here there are none, so a script needs no `if __name__ == "__main__"`. Nor does it flush the output
    before, which only a fork needs, and which fails where nobody reads it any more or its disk is full."""
    with _starting:
        main, flush = sys.modules["__main__"], util._flush_std_streams  # type: ignore[attr-defined]
        sys.modules["__main__"] = types.ModuleType("__main__")
        util._flush_std_streams = lambda: None  # type: ignore[attr-defined]
        try:
            yield
        finally:
            sys.modules["__main__"] = main
            util._flush_std_streams = flush  # type: ignore[attr-defined]
