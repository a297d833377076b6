"""What a run shows and writes while it trains: notices, rows of metrics, calls of callbacks."""

from collections import deque
from pathlib import Path

from troupe.runs.callbacks.callback import Callbacks
from troupe.runs.report.display import Display
from troupe.runs.report.words import Limits
from troupe.runs.store.metrics import Row
from troupe.runs.store.writer import RunWriter
from troupe.runtime.progress import Progress


class RunOutput:
    """Any thread appends to `rows` and to the notices of `progress`; the main thread calls the methods, which pass them
    on."""

    def __init__(self, display: Display, progress: Progress, callbacks: Callbacks, limits: Limits):
        self._display, self._progress, self._callbacks, self._limits = display, progress, callbacks, limits
        self.rows: deque[Row] = deque()

    def show(self, writer: RunWriter, report: Row) -> None:
        """Shows and writes everything pending, the report last."""
        self.show_notices()
        while self._progress.news:
            self._display.news(self._progress.news.popleft())
        self.rows.append(report)
        for row in self.write(writer):
            self._display.report(row, self._limits)

    def show_notices(self) -> None:
        while self._progress.notices:
            self._display.notice(self._progress.notices.popleft())

    def write(self, writer: RunWriter) -> list[Row]:
        """Writes the pending rows, with what callbacks add to them; returns them."""
        written = []
        while self.rows:
            written.append(self._callbacks.on_row(self.rows.popleft()))
            writer.metrics.write(written[-1])
        return written

    def end(self, writer: RunWriter, saved: Path | None) -> None:
        """Writes what is left, and calls the callbacks with the last checkpoint."""
        self.write(writer)
        self.checkpoint(saved)

    def checkpoint(self, path: Path | None) -> None:
        """Calls the callbacks with a checkpoint; `path` is None if it could not be written."""
        if path:
            self._callbacks.on_checkpoint(path)
