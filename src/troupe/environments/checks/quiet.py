"""Silences Gymnasium's warnings (versions, bounds, types); `troupe check` reports those that matter."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import gymnasium as gym

_lock = threading.Lock()
_inside = 0
_before: Any = None  # the logger's level before, and the warnings filter that was added


@contextmanager
def quiet_gymnasium() -> Iterator[None]:
    """Silences the warnings of Gymnasium's logger, spaces and environment checker; errors still raise.

    Applies to the whole process until the last thread has left: `warnings.catch_warnings` restores all filters, and
    would undo what another thread has set.
    """
    global _inside, _before
    with _lock:
        if not _inside:
            warnings.filterwarnings("ignore", module="gymnasium")  # NumPy's warnings from its code
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
                with suppress(ValueError):  # the filters were replaced meanwhile
                    warnings.filters.remove(added)  # type: ignore[attr-defined]
