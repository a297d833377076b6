"""Closes environments within a deadline: some wait for a simulator that has gone."""

import logging
import threading
from collections.abc import Callable

from troupe.config import one_line

CLOSE_SECONDS = 2.0


def close_in_time(close: Callable[[], object], name: str, seconds: float | None = None) -> None:
    """Calls `close`. What it raises is logged, and so is that it has not returned in time; then it is left behind."""
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
    log = logging.getLogger("troupe")
    if thread.is_alive():
        log.warning(f"environment {name}: close() has not returned after {seconds:g} s, and is left behind")
    elif failures:
        log.warning(f"environment {name}: close raised {one_line(failures[0])}")
