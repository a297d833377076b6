"""Trials in processes, several at once: each has a core."""

import os
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, Self

from troupe.runtime.execution.process_launch import no_main, process_context, signals_blocked
from troupe.tuning.trial import Trial, run_trial

_END_SECONDS = 5.0  # for a trial to end in order


class Message(NamedTuple):
    """From a trial: ("score", part, score so far), ("done", score) or ("failed", why)."""

    key: Any  # of the trial, as given to `start`
    kind: str
    about: tuple[Any, ...]


class Workers:
    """`with` ends all that still run."""

    def __init__(self, most: int):
        self.most = most
        self._running: dict[Connection, tuple[Any, Any]] = {}  # key and process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for _, process in self._running.values():
            process.terminate()
        for connection in list(self._running):
            self._forget(connection)

    @property
    def running(self) -> int:
        return len(self._running)

    def start(self, key: Any, trial: Trial) -> None:
        context = process_context()
        ours, theirs = context.Pipe()
        process = context.Process(target=run_trial, args=(theirs, trial, dict(os.environ)))
        with no_main(), signals_blocked():
            process.start()
        theirs.close()
        self._running[ours] = key, process

    def messages(self, seconds: float) -> Iterator[Message]:
        """Those that arrive within so many seconds. A ("score", ...) must be answered before the next call."""
        for connection in wait(list(self._running), seconds):
            assert isinstance(connection, Connection)
            key, _ = self._running[connection]
            try:
                kind, *about = connection.recv()
            except (EOFError, OSError):
                kind, about = "failed", ["its process has died"]
            if kind != "score":
                self._forget(connection)
            yield Message(key, kind, tuple(about))

    def answer(self, key: Any, *, goes_on: bool) -> None:
        for connection, (other, _) in self._running.items():
            if other == key:
                with suppress(OSError):
                    connection.send(goes_on)

    def _forget(self, connection: Connection) -> None:
        _, process = self._running.pop(connection)
        process.join(_END_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
        connection.close()
