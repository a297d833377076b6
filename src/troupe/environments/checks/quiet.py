"""Keeps Gymnasium's warnings (on versions, bounds, types) out of the output: `troupe check` gives those that matter."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import gymnasium as gym

_lock = threading.Lock()
_inside = 0
_before: Any = None  # the logger's level, and the filter that was added to those of warnings


@contextmanager
def quiet_gymnasium() -> Iterator[None]:
    """Silences the warnings of Gymnasium's logger, spaces and environment checker; errors still raise.

    In the whole process, until the last thread that entered has left: `warnings.catch_warnings`, which puts all
    filters back, would undo what another thread has set.
    """
    global _inside, _before
    with _lock:
        if not _inside:
            warnings.filterwarnings("ignore", module="gymnasium")  # what NumPy warns of in its code
            _before = gym.logger.min_level, warnings.filters[0]
            gym.logger.min_level = gym.logger.ERROR
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                gym.logger.min_level, added = _before
                with suppress(ValueError):  # somebody has replaced the filters meanwhile
                    warnings.filters.remove(added)  # type: ignore[attr-defined]
