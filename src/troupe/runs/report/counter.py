"""The progress of an evaluation: a line on a terminal that is overwritten, and the text of an interruption."""

import time
from typing import TextIO

from troupe.runs.evaluate.scores import Tally
from troupe.text import format_return

_EVERY_SECONDS = 0.1


class Counter:
    """Called repeatedly with an evaluation's tally. Writes only where `stream` is a terminal."""

    def __init__(self, episodes: int, stream: TextIO):
        self._episodes, self._stream = episodes, stream
        self._shows, self._next = stream.isatty(), 0.0
        self._tally: Tally | None = None

    def __call__(self, tally: Tally) -> None:
        self._tally = tally
        if self._shows and time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVERY_SECONDS
            self._write(self.text)

    @property
    def text(self) -> str:
        """The number of complete episodes and their mean return; short episodes end first."""
        returns = self._tally.returns if self._tally else []
        mean = f": mean return {format_return(sum(returns) / len(returns))}" if returns else ""
        return f"{len(returns)} of {self._episodes} episodes{mean}"

    def clear(self) -> None:
        if self._shows:
            self._write("")

    def _write(self, text: str) -> None:
        self._stream.write(f"\r{text}\x1b[K")
        self._stream.flush()
