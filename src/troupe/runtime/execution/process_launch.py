"""How processes are started: from a server that has imported torch once, and out of reach of the terminal's signals."""

import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from troupe import signals

NO_PROCESSES = "this is a daemonic process, such as a worker of multiprocessing.Pool, which may not start processes"


def may_have_processes() -> bool:
    return not multiprocessing.current_process().daemon


def warm_up() -> None:
    """Gets ready to start processes, in the background: what they have in common is imported once."""
    if os.name == "posix":
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()  # first: as it starts, it lets in the signals that are held back below
    if _method() == "forkserver":
        from multiprocessing import forkserver

        forkserver.set_forkserver_preload(["troupe.runtime.execution.process_child"])
        with signals_held_back():
            forkserver.ensure_running()


def _method() -> str:
    # Forking a server that has no threads and has imported torch takes 20 ms; a new interpreter 1.5 s.
    return "forkserver" if sys.platform == "linux" else "spawn"


def process_context() -> Any:
    warm_up()
    return multiprocessing.get_context(_method())


@contextmanager
def signals_held_back() -> Iterator[None]:
    """What is started inside does not get the terminal's Ctrl-C or hangup: this process does, and says what to do."""
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
    """multiprocessing would import the user's script anew in every process, to find there what has been
    pickled by name. Nothing has: so a script needs no `if __name__ == "__main__"`."""
    with _starting:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main
