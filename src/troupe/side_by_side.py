"""Runs of a series in processes of their own, as many at a time as the hosts of a cluster have cores for."""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import parent_process
from typing import Any, TypeVar

import cloudpickle

from troupe import signals
from troupe.config import TroupeError
from troupe.runtime.data.shared_memory import ByValue
from troupe.runtime.execution.process_launch import no_main, process_context, signals_blocked

J = TypeVar("J")
R = TypeVar("R")
_POLL_SECONDS = 0.2
_SAVE_SECONDS = 30.0  # for runs to save what they have after a signal
_DIED = "its process has died; troupe resume continues the run"


def side_by_side(
    jobs: Sequence[J], work: Callable[[J], R], most: int, note: Callable[[J, R | TroupeError], object]
) -> None:
    """Calls `note` with the result of `work` of each job, at most `most` at a time, in the order in which they end.

    `work` and results travel by value; a TroupeError in place of a result says that a process has died. A signal goes
    to all that are under way, whose results are still noted, and is then raised again; what `note` raises ends all.
    """
    waiting, under_way = list(jobs), dict[Connection, tuple[J, Any]]()

    def take(seconds: float) -> None:
        for connection in wait(list(under_way), seconds):
            job, process = under_way.pop(connection)  # type: ignore[call-overload]
            try:
                result = cloudpickle.loads(connection.recv_bytes())  # type: ignore[union-attr]
            except (EOFError, OSError):
                result = TroupeError(_DIED)
            process.join(_POLL_SECONDS)
            note(job, result)

    try:
        while waiting or under_way:
            while waiting and len(under_way) < most:
                job = waiting.pop(0)
                connection, process = _start(work, job)
                under_way[connection] = job, process
            take(_POLL_SECONDS)
    except KeyboardInterrupt as stop:
        number = stop.args[0] if stop.args and isinstance(stop.args[0], int) else signal.SIGINT
        for _, process in under_way.values():
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)
        end = time.monotonic() + _SAVE_SECONDS
        while under_way and time.monotonic() < end:
            take(_POLL_SECONDS)
        raise
    finally:
        for _, process in under_way.values():
            process.kill()


def _start(work: Callable[[J], R], job: J) -> tuple[Connection, Any]:
    context = process_context()
    ours, theirs = context.Pipe()
    packed = ByValue((work, job)), dict(os.environ)
    process = context.Process(target=_work, args=(theirs, *packed), name=f"run-{job}", daemon=False)
    with no_main(), signals_blocked():
        process.start()
    theirs.close()
    return ours, process


def _work(connection: Connection, packed: ByValue, variables: dict[str, str]) -> None:
    """A process of its own: signals of the terminal go to the one that has started it, which passes them on."""
    os.environ.update(variables)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.ENDING)
    threading.Thread(target=_follow, daemon=True).start()
    work, job = packed.value
    connection.send_bytes(cloudpickle.dumps(work(job)))


def _follow() -> None:
    """However the parent ends, this process saves its run and ends."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
