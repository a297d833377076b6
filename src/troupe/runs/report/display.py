"""Shows progress while a run trains: a live panel on a terminal or in a notebook, plain lines anywhere else."""

import logging
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any, Literal, Self, TextIO, cast

from troupe.config import printable
from troupe.runs.report.live import LivePanel, NotebookPanel, in_notebook
from troupe.runs.report.view import Limits, ReturnHistory, View, training_return
from troupe.text import format_duration, format_return

Mode = Literal["auto", "plain", "quiet", "silent"]

REFRESH_SECONDS = 0.25
LINE_SECONDS = 2.0, 30.0  # pause between plain lines: at first, and at most


class Display:
    """Shows reports and evaluations (rows of metrics.jsonl) as they come; one thread calls it.

    `auto` draws a panel on a terminal or in a notebook, and is `silent` elsewhere; `plain` always writes lines, `quiet`
    only notices and the result, `silent` nothing: its notices go to the logger "troupe". The stream is standard output
    unless given; one that is closed meanwhile stops no run.

    Drawing happens only within `report`, at most four times a second: no thread competes with training for the
    interpreter.
    """

    def __init__(self, mode: Mode = "auto", stream: TextIO | None = None) -> None:
        self._stream = _TolerantStream(stream or sys.stdout)
        self._panel: LivePanel | NotebookPanel | None = None
        if mode == "auto":
            if stream is None and in_notebook():
                self._panel = NotebookPanel(cast(TextIO, self._stream))
            elif self._stream.draws:
                self._panel = LivePanel(cast(TextIO, self._stream))
        self._silent = mode == "silent" or (mode == "auto" and not (self._panel or self._stream.is_terminal))
        self._quiet = self._silent or mode == "quiet"
        self._history = ReturnHistory()
        self._best: float | None = None
        self._unshown: View | None = None
        self._next = 0.0
        self._pause = LINE_SECONDS[0]
        self._headed = False
        self._per_steps = False  # whether /1k has been explained

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def start(self, lines: Iterable[str]) -> None:
        """Shows what is about to run."""
        if not self._quiet:
            self._write(lines)

    def report(self, row: Mapping[str, Any], limits: Limits) -> None:
        """Takes a row of any kind; shows it when the last one has been up long enough."""
        if row.get("kind") == "evaluation":
            self._best = row["mean"] if self._best is None else max(self._best, row["mean"])
            return
        if row.get("kind") == "collapse":  # there is a notice about it
            return
        if row.get("recent_return") is not None:
            self._history.add(row["recent_return"])
        self._unshown = View(row, limits, self._history.values, self._best)
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
        if self._unshown and not self._quiet:
            self._show()
        if self._panel:
            self._panel.close()

    def _show(self) -> None:
        view, self._unshown = self._unshown, None
        assert view is not None
        if self._panel:
            self._panel.draw(view)
            self._next = monotonic() + REFRESH_SECONDS
        else:
            line = _line(view)
            if not self._per_steps and "/1k" in line:
                self._per_steps = True
                self._write(["no episode has ended: the training return is that of 1,000 steps (/1k)"])
            self._write([line] if self._headed else [_heading(), line])
            self._headed = True
            self._next = monotonic() + self._pause
            self._pause = min(1.2 * self._pause, LINE_SECONDS[1])

    def _write(self, lines: Iterable[str]) -> None:
        text = "".join(f"{printable(line)}\n" for line in lines)
        if self._panel:
            self._panel.write_above(text)
        else:
            self._stream.write(text)
            self._stream.flush()


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

    @property
    def draws(self) -> bool:
        """Whether it is a terminal whose cursor can be moved."""
        return self.is_terminal and os.environ.get("TERM") not in ("dumb", "unknown")


# Plain lines

_WIDTHS = {
    "time": 10, "steps": 13, "training": 12, "best eval": 11, "steps/s": 10, "updates/s": 10,
    "queue": 8, "lag": 10,
}  # fmt: skip


def _heading() -> str:
    return "".join(f"{name:>{width}}" for name, width in _WIDTHS.items()) + "  bottleneck"


def _line(view: View) -> str:
    row = view.row
    cells = (
        format_duration(row["seconds"]),
        f"{row['steps']:,}",
        training_return(row),
        format_return(view.best),
        f"{row.get('steps_per_s', 0):,.0f}",
        f"{row.get('updates_per_s', 0):,.0f}",
        f"{row.get('queue_depth', 0)}/{row.get('queue_capacity', 0)}",
        f"{row.get('lag_mean', 0):.1f}/{row.get('lag_max', 0)}",
    )
    aligned = "".join(f"{cell:>{width}}" for cell, width in zip(cells, _WIDTHS.values(), strict=True))
    return f"{aligned}  {row.get('bottleneck', '')}".rstrip()
