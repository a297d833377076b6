"""Owns every thread of a run: stops all of them when one fails."""

import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from troupe.runtime.execution.gate import Closed, Gate, Retired
from troupe.torch_threads import apply_torch_threads


@dataclass(frozen=True)
class Failure:
    """The thread that failed, and its exception with the traceback."""

    part: str
    error: BaseException


class Supervisor:
    """Starts threads, and stops all of them at the end of `with`.

    Every thread passes the `gate`; `on_stop` wakes those that wait elsewhere (it closes the queue).
    """

    def __init__(self, gate: Gate, on_stop: Callable[[], None]):
        self._gate, self._on_stop = gate, on_stop
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self.failure: Failure | None = None

    def __enter__(self) -> "Supervisor":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, name: str, run: Callable[[], None], core: int | None = None) -> None:
        """Starts a thread, on processor `core` if one is given."""
        # Daemons: an environment that never returns must not keep the process alive.
        thread = threading.Thread(target=self._guard, args=(name, run, core), name=name, daemon=True)
        thread.start()  # raises where there can be no more threads; `stop` waits for those that run
        self._threads.append(thread)

    def wait(self, seconds: float) -> bool:
        """Waits at most that long; true once the run is over, by `end` or by a failure."""
        return self._ended.wait(seconds)

    def end(self) -> None:
        """Ends the run; returns at once."""
        self._gate.stop()
        self._on_stop()
        self._ended.set()

    def fail(self, part: str, error: BaseException) -> None:
        """Ends the run because thread `part` has raised `error`; the first failure is kept."""
        with self._lock:
            self.failure = self.failure or Failure(part, error)
        self.end()

    def stop(self, patience_seconds: float = 1.0) -> list[str]:
        """Ends the run and waits for every thread; returns the names of those still busy after that."""
        self.end()
        deadline = time.monotonic() + patience_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return [thread.name for thread in self._threads if thread.is_alive()]

    def _guard(self, name: str, run: Callable[[], None], core: int | None) -> None:
        try:
            if core is not None:
                with suppress(OSError):  # a container may forbid it; only speed depends on it
                    os.sched_setaffinity(0, {core})  # 0: this thread, not the process
            apply_torch_threads()
            run()
            raise RuntimeError("it returned before the run had ended")
        except BaseException as error:
            if isinstance(error, Retired) or (isinstance(error, Closed) and self._gate.stopped):
                return
            if self._gate.stopped:  # errors from using what has been closed are expected
                self.end()
            else:
                self.fail(name, error)


def idlest_core() -> int | None:
    """The processor that is idle most, for threads that take turns; None if the system does not let one choose.

    Only one of these threads runs at a time, and finds the interpreter's memory in the cache if all run on one
    processor: on two, the article's eight actors make half as many steps.
    """
    if not hasattr(os, "sched_setaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    before = _idle_ticks()
    time.sleep(0.05)
    after = _idle_ticks()
    spare = {core: after.get(core, 0) - before.get(core, 0) for core in cores}
    return random.choice([core for core in cores if spare[core] == max(spare.values())])


def _idle_ticks() -> dict[int, int]:
    """Ticks that each processor has been idle, as Linux counts them; empty elsewhere."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return {}
    rows = [line.split() for line in lines if line[:3] == "cpu" and line[3].isdigit()]
    return {int(row[0][3:]): int(row[4]) for row in rows}
