"""Detects environments that hang, in threads and in processes, and reports where in their code."""

import faulthandler
import re
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from troupe.interpreter import threads_run_in_parallel

_TROUPE = str(Path(__file__).parents[2])
_MAX_POLL_SECONDS = 0.2


class HangDetector:
    """Detects from an actor's pulse that its environment has not answered for `seconds` (0: never).

    Time is counted between polls, at most `_MAX_POLL_SECONDS` each: while this process itself is stopped (Ctrl-Z, a
    container that is paused), no environment hangs.
    """

    def __init__(self, pulse: np.ndarray, seconds: float):
        self._pulse, self._seconds = pulse, seconds
        self._asked, self._waited, self._polled = 0.0, 0.0, time.monotonic()

    def hangs(self) -> bool:
        """Whether it hangs; to be polled."""
        now, asked = time.monotonic(), float(self._pulse[0])
        passed = min(now - self._polled, _MAX_POLL_SECONDS)
        self._waited = self._waited + passed if asked == self._asked else 0.0
        self._polled, self._asked = now, asked
        return bool(self._seconds and asked and self._waited > self._seconds)


def stack_of(thread: threading.Thread) -> list[str]:
    """A thread's stack, innermost call first; empty once it has ended."""
    if threads_run_in_parallel():
        return _dumped_stack(thread)
    frame = sys._current_frames().get(thread.ident or 0)
    return [line.splitlines()[0] for line in reversed(traceback.format_stack(frame))] if frame else []


def _dumped_stack(thread: threading.Thread) -> list[str]:
    """The stack of a thread that may run meanwhile: only faulthandler stops it before it looks at its frames."""
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        dumped = file.read().decode(errors="replace")
    for stack in dumped.split("\n\n"):
        head = re.match("Thread (0x[0-9a-f]+)", stack)
        if head and int(head[1], 16) == thread.ident and thread.is_alive():
            return stack.splitlines()[1:]
    return []


def hung(environment: str, seconds: float, stack: Sequence[str]) -> str:
    """The message about an environment that does not answer, with its part of the stack, innermost call first."""
    lines = [line.strip() for line in stack]
    ours = next((i for i, line in enumerate(lines) if _TROUPE in line), len(lines))
    return "\n    ".join([f"environment {environment} has not answered for {seconds:g} s", *lines[:ours]])
