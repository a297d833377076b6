"""Detects environments that hang, in threads and in processes, and reports where they do."""

import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import numpy as np

_TROUPE = str(Path(__file__).parents[2])
_LONGEST_LOOK_SECONDS = 0.2


class HangDetector:
    """Finds that an environment has not answered for `seconds` (0: never), by its actor's pulse.

    What counts is the time between looks, and only so much of it: while this process itself stands
    still (Ctrl-Z, a container that is paused), no environment is late.
    """

    def __init__(self, pulse: np.ndarray, seconds: float):
        self._pulse, self._seconds = pulse, seconds
        self._asked, self._waited, self._looked = 0.0, 0.0, time.monotonic()

    def look(self) -> bool:
        """Whether it hangs; call it again and again."""
        now, asked = time.monotonic(), float(self._pulse[0])
        passed = min(now - self._looked, _LONGEST_LOOK_SECONDS)
        self._waited = self._waited + passed if asked == self._asked else 0.0
        self._looked, self._asked = now, asked
        return bool(self._seconds and asked and self._waited > self._seconds)


def stack_of(thread: threading.Thread) -> list[str]:
    """Where a thread stands, innermost call first; nothing once it has ended."""
    frame = sys._current_frames().get(thread.ident or 0)
    return [line.splitlines()[0] for line in reversed(traceback.format_stack(frame))] if frame else []


def hung(environment: str, seconds: float, stack: Sequence[str]) -> str:
    """The message about an environment that does not answer, with its part of the stack, innermost call first."""
    lines = [line.strip() for line in stack]
    ours = next((i for i, line in enumerate(lines) if _TROUPE in line), len(lines))
    return "\n    ".join([f"environment {environment} has not answered for {seconds:g} s", *lines[:ours]])
