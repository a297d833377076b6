"""Closes environments within a deadline: some wait forever for a simulator that is gone."""

import logging
import threading
from collections.abc import Callable

from troupe.config import one_line
from troupe.user_code.guard import user_code

CLOSE_SECONDS = 2.0
_reported: set[str] = set()  # in this process: many environments may fail in the same way


def report_failure(name: str, error: BaseException) -> None:
    """Logs, once, that an environment's close raised, which does no harm to the run."""
    text = one_line(error)
    if text not in _reported:
        _reported.add(text)
        logging.getLogger("troupe").warning(f"environment {name}: close raised {text}")


def close_and_report(close: Callable[[], object], name: str) -> None:
    """Calls `close` in this thread; logs what it raises."""
    try:
        with user_code():
            close()
    except Exception as error:
        report_failure(name, error)


def close_in_time(close: Callable[[], object], name: str, seconds: float | None = None) -> None:
    """Calls `close` in a thread. Logs what it raises, or that it has not returned in time, and then abandons it."""
    seconds = CLOSE_SECONDS if seconds is None else seconds
    failures: list[BaseException] = []

    def run() -> None:
        try:
            close()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="close", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        text = f"environment {name}: close() has not returned after {seconds:g} s, and is abandoned"
        logging.getLogger("troupe").warning(text)
    elif failures:
        report_failure(name, failures[0])
