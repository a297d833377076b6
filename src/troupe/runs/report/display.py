"""Shows progress while a run trains: a live panel on a terminal or in a notebook, plain rows anywhere else."""

import logging
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any, Self, TextIO, cast

from troupe.config import Mode, printable
from troupe.runs.evaluate.scores import Tally
from troupe.runs.report.panel import NotebookPanel, TerminalPanel, TextOutput, in_notebook
from troupe.runs.report.words import Limits, View, training_return
from troupe.text import format_return, format_speed, wrapped

ROW_SECONDS = 2.0, 30.0  # pause between plain rows: at first, and at most
COLUMN_WIDTHS = 6, 12, 9, 10, 8, 10, 5  # with 18 for the bottleneck a row has 80 characters
MOST_RETURNS = 256  # kept for the chart
SPEED_SECONDS = 0.5  # of training, before which a speed in a row is an artefact of the start
COUNT_SECONDS = 0.1  # between two counts of an evaluation's episodes


class Display:
    """Shows reports and evaluations (rows of metrics.jsonl) as they come; one thread calls it.

    `auto` draws a panel on a terminal or in a notebook, and is `silent` elsewhere; `plain` always writes rows, `quiet`
    only notices and the result, `silent` nothing: its notices go to the logger "troupe". The stream is standard output
    unless given; if it is closed meanwhile, the run continues.

    Drawing happens only within `report`, at most four times a second: no thread competes with training for the
    interpreter.
    """

    def __init__(self, mode: Mode = "auto", stream: TextIO | None = None) -> None:
        self._stream = _TolerantStream(stream or sys.stdout)
        file = cast(TextIO, self._stream)
        notebook = mode == "auto" and stream is None and in_notebook()
        panel = mode == "auto" and self._stream.is_terminal and os.environ.get("TERM") not in ("dumb", "unknown")
        self._shown: NotebookPanel | TerminalPanel | _Rows
        self._shown = NotebookPanel(file) if notebook else TerminalPanel(file) if panel else _Rows(file)
        self._silent = mode == "silent" or (mode == "auto" and not (notebook or self._stream.is_terminal))
        self._quiet = self._silent or mode == "quiet"
        self._returns = _Returns()
        self._best: float | None = None
        self._unshown: tuple[Mapping[str, Any], Limits] | None = None
        self._next = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def start(self, lines: Iterable[str]) -> None:
        """Shows what is about to run."""
        if not self._quiet:
            self._write(lines)

    def resume(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Takes the rows that a resumed run continues from, of which it shows the returns."""
        for row in rows:
            kind, mean, recent = (row.get(name) for name in ("kind", "mean", "recent_return"))
            if kind == "evaluation" and row.get("purpose") != "final" and mean is not None:
                self._best = mean if self._best is None else max(self._best, mean)
            elif kind == "report" and recent is not None:
                self._returns.add(recent)

    def report(self, row: Mapping[str, Any], limits: Limits) -> None:
        """Takes a row of any kind; shows it when the last one has been up long enough."""
        self.resume([row])
        if row.get("kind") == "report":
            self._unshown = row, limits
            if not self._quiet and monotonic() >= self._next:
                self._show()

    def notice(self, text: str) -> None:
        """Shows a line about something that happened, in every mode."""
        if self._silent:
            logging.getLogger("troupe").warning(printable(text))
        else:
            self._write([text])

    def news(self, text: str) -> None:
        """Shows a line about normal progress, unless `quiet` or `silent`."""
        if not self._quiet:
            self._write([text])

    def result(self, lines: Iterable[str]) -> None:
        """Closes the panel and shows how the run ended, in every mode but `silent`."""
        self.close()
        if not self._silent:
            self._write(lines)

    def close(self) -> None:
        """Shows the last report unless it has been shown, and leaves the terminal as it was."""
        if not self._quiet:
            self._show()
        self._shown.close()

    def _show(self) -> None:
        if self._unshown:
            self._shown.draw(View(*self._unshown, self._returns.values, self._best))
            self._unshown, self._next = None, monotonic() + self._shown.pause_seconds

    def _write(self, lines: Iterable[str]) -> None:
        """Wrapped at words on a terminal; in a file a line stays whole, so that it can be searched."""
        width = shutil.get_terminal_size().columns if self._stream.is_terminal else None
        self._shown.write("".join(f"{part}\n" for line in lines for part in wrapped(printable(line), width)))


class _Returns:
    """The returns of the whole run in less than MOST_RETURNS numbers: when there are more, neighbours are averaged."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self._pending: list[float] = []
        self._merged = 1

    def add(self, value: float) -> None:
        self._pending.append(value)
        if len(self._pending) < self._merged:
            return
        self.values.append(sum(self._pending) / len(self._pending))
        self._pending.clear()
        if len(self.values) == MOST_RETURNS:
            pairs = zip(self.values[::2], self.values[1::2], strict=True)
            self.values = [(left + right) / 2 for left, right in pairs]
            self._merged *= 2


class _Rows(TextOutput):
    """Plain rows of at most 80 characters, at growing intervals."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._explained: set[str] = set()
        self.pause_seconds = ROW_SECONDS[0] / 1.2

    def draw(self, view: View) -> None:
        row = view.row
        minutes, seconds = divmod(round(row["seconds"]), 60)
        cells = {
            "time": f"{minutes // 60}h{minutes % 60:02}m" if minutes >= 60 else f"{minutes}m{seconds:02}s",
            "steps": f"{row['steps']:,}",
            "training": training_return(row),
            "best eval": format_return(view.best),
            "steps/s": format_speed(row.get("steps_per_s") if row["seconds"] >= SPEED_SECONDS else None),
            "queue": f"{row.get('queue_depth', 0)}/{row.get('queue_capacity', 0)}",
            "lag": "-" if row.get("lag_mean") is None else f"{row['lag_mean']:.1f}",
        }
        self._explain(
            "time: training so far; training: mean return of the latest 100 episodes of the\n"
            "exploring actors; best eval: best evaluation return; steps/s: of the latest\n"
            "batches; queue: rollouts waiting / capacity; lag: weight versions between acting\n"
            "and learning; bottleneck: the part that waits least, and what it mostly does\n"
            f"{_columns(cells)}  bottleneck\n"
        )
        if cells["training"].endswith("/1k"):
            self._explain("no episode has ended: the training return is that of 1,000 steps (/1k)\n")
        self.write(f"{_columns(cells.values())}  {row.get('bottleneck') or '-'}\n")
        self.pause_seconds = min(1.2 * self.pause_seconds, ROW_SECONDS[1])

    def _explain(self, text: str) -> None:
        if text not in self._explained:
            self._explained.add(text)
            self.write(text)


def _columns(cells: Iterable[str]) -> str:
    return "".join(f" {cell:>{width - 1}}" for cell, width in zip(cells, COLUMN_WIDTHS, strict=True))


class _TolerantStream:
    """Writes never fail: what the encoding lacks becomes '?', and what cannot be written is dropped."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.encoding: str = getattr(stream, "encoding", None) or "utf-8"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):  # ValueError: it has been closed
            self._stream.write(text.encode(self.encoding, "replace").decode(self.encoding))
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    @property
    def is_terminal(self) -> bool:
        isatty = getattr(self._stream, "isatty", None)
        return bool(isatty and isatty())


class Counter:
    """The progress of an evaluation: called with its tally, it overwrites a line where `stream` is a terminal."""

    def __init__(self, episodes: int, stream: TextIO):
        self._episodes, self._stream = episodes, stream
        self._shows, self._next = stream.isatty(), 0.0
        self._returns: list[float] = []

    def __call__(self, tally: Tally) -> None:
        self._returns = tally.returns
        if self._shows and monotonic() >= self._next:
            self._next = monotonic() + COUNT_SECONDS
            self.clear(self.text)

    @property
    def text(self) -> str:
        """The number of complete episodes and their mean return; short episodes end first."""
        returns = self._returns
        mean = f": mean return {format_return(sum(returns) / len(returns))}" if returns else ""
        return f"{len(returns)} of {self._episodes} episodes{mean}"

    def clear(self, text: str = "") -> None:
        if self._shows:
            self._stream.write(f"\r{text}\x1b[K")
            self._stream.flush()
