"""What a run shows while it trains: a live panel on a terminal, plain lines anywhere else."""

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from time import monotonic
from typing import Any, Literal, NamedTuple, Self, TextIO, cast

Mode = Literal["auto", "plain", "quiet", "silent"]

REFRESH_SECONDS = 0.25
LINE_SECONDS = 2.0, 30.0  # pause between plain lines: at first, and at most


@dataclass(frozen=True)
class Limits:
    """What ends the run; 0 and None are no limit."""

    steps: int = 0
    seconds: float = 0.0
    target: float | None = None


class Display:
    """Shows reports and evaluations (rows of metrics.jsonl) as they come; one thread calls it.

    `auto` draws a panel where `stream` is a terminal and writes plain lines where it is none, `plain`
    always writes lines, `quiet` leaves only events and the result, `silent` writes nothing: its events go
    to the logger "troupe". The stream is standard output unless given: what is said here is the program's
    answer to a person. A stream that goes away stops no run.

    Nothing is drawn but from within `report`, four times a second at most: there is no thread here that
    competes with training for the interpreter.
    """

    def __init__(self, mode: Mode = "auto", stream: TextIO | None = None) -> None:
        self._stream = _Steady(stream or sys.stdout)
        self._silent = mode == "silent"
        self._quiet = self._silent or mode == "quiet"
        self._panel = _Panel(self._stream) if mode == "auto" and self._stream.is_terminal else None
        self._history = _History()
        self._best: float | None = None
        self._unshown: _View | None = None
        self._next = 0.0
        self._pause = LINE_SECONDS[0]
        self._headed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def start(self, lines: Iterable[str]) -> None:
        """Says what is about to run."""
        if not self._quiet:
            self._write(lines)

    def report(self, row: Mapping[str, Any], limits: Limits) -> None:
        """Takes a row of any kind; shows it when the last one has been up long enough."""
        if row.get("kind") == "evaluation":
            self._best = row["mean"] if self._best is None else max(self._best, row["mean"])
            return
        if row.get("kind") == "collapse":  # an event says it in words
            return
        if row.get("recent_return") is not None:
            self._history.add(row["recent_return"])
        self._unshown = _View(row, limits, self._history.values, self._best)
        if not self._quiet and monotonic() >= self._next:
            self._show()

    def event(self, text: str) -> None:
        """Says something that happened, in every mode."""
        if self._silent:
            logging.getLogger("troupe").warning(text)
        else:
            self._write([text])

    def news(self, text: str) -> None:
        """Says what is going on, to those who follow the run."""
        if not self._quiet:
            self._write([text])

    def result(self, lines: Iterable[str]) -> None:
        """Closes the panel and says how the run ended, in every mode but `silent`."""
        self.close()
        if not self._silent:
            self._write(lines)

    def close(self) -> None:
        """Shows the last report if nobody saw it, and leaves the terminal as it was."""
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
            self._write([_line(view)] if self._headed else [_heading(), _line(view)])
            self._headed = True
            self._next = monotonic() + self._pause
            self._pause = min(1.2 * self._pause, LINE_SECONDS[1])

    def _write(self, lines: Iterable[str]) -> None:
        text = "".join(f"{line}\n" for line in lines)
        if self._panel:
            self._panel.write_above(text)
        else:
            self._stream.write(text)
            self._stream.flush()


class _Steady:
    """A stream that takes everything: what its encoding lacks becomes '?', what nobody reads is dropped."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.encoding: str = getattr(stream, "encoding", None) or "utf-8"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text.encode(self.encoding, "replace").decode(self.encoding))
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    @property
    def is_terminal(self) -> bool:
        isatty = getattr(self._stream, "isatty", None)
        return bool(isatty and isatty()) and os.environ.get("TERM") not in ("dumb", "unknown")


class _View(NamedTuple):
    """All that one picture of the run is made of."""

    row: Mapping[str, Any]
    limits: Limits
    history: list[float]
    best: float | None


class _History:
    """The returns of the whole run in at most 256 numbers: when they fill up, neighbours are merged."""

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
        if len(self.values) == 256:
            pairs = zip(self.values[::2], self.values[1::2], strict=True)
            self.values[:] = [(left + right) / 2 for left, right in pairs]
            self._merged *= 2


# What both forms say


class _Progress(NamedTuple):
    fraction: float
    words: str
    seconds_left: float | None  # until the limit of steps or time, at the speed so far


def _progress(view: _View) -> _Progress:
    """Towards the limit that is nearest its end; a target is measured from the first return seen."""
    row, limits = view.row, view.limits
    steps, seconds = row["steps"], row["seconds"]
    towards: list[tuple[float, str]] = []
    left: list[float] = []
    if limits.steps:
        towards.append((steps / limits.steps, f"{steps:,} of {limits.steps:,} steps"))
        if steps:
            left.append((limits.steps - steps) * seconds / steps)
    if limits.seconds:
        towards.append((seconds / limits.seconds, f"{_time(seconds)} of {_time(limits.seconds)}"))
        left.append(limits.seconds - seconds)
    if limits.target is not None and view.history and limits.target > view.history[0]:
        first, recent = view.history[0], view.history[-1]
        share = (recent - first) / (limits.target - first)
        towards.append((share, f"return {score(recent)} of {limits.target:g}"))
    fraction, words = max(towards, default=(0.0, f"{steps:,} steps"))
    return _Progress(min(max(fraction, 0.0), 1.0), words, max(min(left), 0.0) if left else None)


def _bottleneck(row: Mapping[str, Any]) -> str:
    """'the learner is the bottleneck (learn 90 %): the actors wait 78 % of their time'."""
    part, _, activity = row.get("bottleneck", "").partition(": ")
    if not part:
        return ""
    shares = row.get("shares", {})
    busy = shares.get(part, {}).get(activity)
    detail = f" ({activity} {busy:.0%})" if busy is not None else ""
    words = f"the {_name(part)} {'are' if part == 'actor' else 'is'} the bottleneck{detail}"
    waits = [
        f"the {_name(other)} wait{'' if other == 'actor' else 's'} {share['wait']:.0%} of the time"
        for other, share in shares.items()
        if other != part and share.get("wait", 0) >= 0.05
    ]
    return f"{words}: {', '.join(waits)}".removesuffix(": ").replace("%", " %")


def _name(part: str) -> str:
    return "actors" if part == "actor" else part


def score(value: float | None) -> str:
    """A mean return: of small ones the second digit counts, too, where a game is won or lost for 1 or 0."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} m"
    return f"{minutes} m {seconds:02} s" if minutes else f"{seconds} s"


# Plain lines

_WIDTHS = {
    "time": 10, "steps": 13, "return": 9, "best eval": 10, "steps/s": 10, "updates/s": 10,
    "queue": 8, "lag": 10,
}  # fmt: skip


def _heading() -> str:
    return "".join(f"{name:>{width}}" for name, width in _WIDTHS.items()) + "  bottleneck"


def _line(view: _View) -> str:
    row = view.row
    cells = (
        _time(row["seconds"]),
        f"{row['steps']:,}",
        score(row.get("recent_return")),
        score(view.best),
        f"{row.get('steps_per_s', 0):,.0f}",
        f"{row.get('updates_per_s', 0):,.0f}",
        f"{row.get('queue_depth', 0)}/{row.get('queue_capacity', 0)}",
        f"{row.get('lag_mean', 0):.1f}/{row.get('lag_max', 0)}",
    )
    aligned = "".join(f"{cell:>{width}}" for cell, width in zip(cells, _WIDTHS.values(), strict=True))
    return f"{aligned}  {row.get('bottleneck', '')}".rstrip()


# The panel

_Span = tuple[str, str]  # text and its style


class _Glyphs(NamedTuple):
    full: str
    empty: str
    levels: str  # of the sparkline, low to high


_UNICODE = _Glyphs("━", "─", "▁▂▃▄▅▆▇█")
_ASCII = _Glyphs("=", "-", "_.:-=+*#")
_COLOURS = {"env": "blue", "act": "cyan", "learn": "magenta", "other": "bright_black"}


class _Panel:
    """The rich panel; rich is imported only here, and the panel opens with the first picture."""

    def __init__(self, stream: _Steady) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=cast(TextIO, stream), highlight=False, markup=False, emoji=False)
        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="crop")
        self._glyphs = _UNICODE if stream.encoding.lower().startswith("utf") else _ASCII

    def draw(self, view: _View) -> None:
        from rich.panel import Panel
        from rich.text import Text

        self._live.start()  # nothing, if it is open already
        width = min(self._console.width, 100)
        text = Text("\n", no_wrap=True, overflow="crop").join(
            Text.assemble(*line) for line in _lines(view, width - 4, self._glyphs)
        )
        title = Text(f" {_time(view.row['seconds'])} ", "bold")
        self._live.update(Panel(text, title=title, title_align="left", border_style="dim", width=width), refresh=True)

    def write_above(self, text: str) -> None:
        from rich.text import Text

        self._console.print(Text(text), end="", soft_wrap=True)

    def close(self) -> None:
        self._live.stop()


def _lines(view: _View, width: int, glyphs: _Glyphs) -> Iterator[list[_Span]]:
    """The panel's lines, each beginning with what matters most: a narrow terminal cuts their ends."""
    row, limits = view.row, view.limits
    size = min(max(width // 4, 6), 30)

    def line(label: str, *spans: _Span) -> list[_Span]:
        return [(f"{label:<9}", "bold"), *spans]

    progress = _progress(view)
    left = progress.seconds_left
    at_most = "" if limits.target is None else "at most "
    yield line(
        "progress",
        *_bar([(progress.fraction, "green")], size, glyphs),
        (f"  {100 * progress.fraction:.0f} %", ""),
        (f"  {progress.words}", ""),
        ("" if left is None else f"  {at_most}{_time(left)} left", "dim"),
    )
    best = "" if view.best is None else f"  best evaluation {score(view.best)}"
    target = "" if limits.target is None else f"  target {limits.target:g}"
    yield line(
        "return",
        (f"{_sparkline(view.history, size, glyphs.levels):<{size}}", "green"),
        (f"  {score(row.get('recent_return'))}", "bold"),
        (best, ""),
        (target, "dim"),
    )
    depth, capacity = row.get("queue_depth", 0), row.get("queue_capacity", 0)
    yield line(
        "queue",
        *_bar([(depth / capacity if capacity else 0.0, "yellow")], size, glyphs),
        (f"  {depth} of {capacity}", ""),
        (f"  lag {row.get('lag_mean', 0):.1f} updates, at most {row.get('lag_max', 0)}", ""),
    )
    for part, shares in row.get("shares", {}).items():
        busy = {activity: share for activity, share in shares.items() if activity != "wait"}
        yield line(
            _name(part),
            *_bar([(share, _COLOURS.get(name, "cyan")) for name, share in busy.items()], size, glyphs),
            ("  ", ""),
            *((f"{name} {100 * share:.0f} %  ", _COLOURS.get(name, "cyan")) for name, share in busy.items()),
            (f"wait {100 * shares['wait']:.0f} %" if "wait" in shares else "", "dim"),
        )
    yield line(
        "speed",
        (f"{row.get('steps_per_s', 0):,.0f} steps/s", ""),
        (f"   {row.get('updates_per_s', 0):,.0f} updates/s", ""),
        (f"   {row.get('episodes', 0):,} episodes", "dim"),
    )
    if words := _bottleneck(row):
        yield [(words, "yellow")]


def _bar(parts: Iterable[tuple[float, str]], size: int, glyphs: _Glyphs) -> Iterator[_Span]:
    """Shares of the whole side by side, each in its colour, rounded together so that they never overrun."""
    end, total = 0, 0.0
    for share, style in parts:
        total += share
        cells = min(round(total * size), size) - end
        end += cells
        yield glyphs.full * cells, style
    yield glyphs.empty * (size - end), "dim"


def _sparkline(values: list[float], size: int, levels: str) -> str:
    """The values from low to high, averaged into at most `size` columns."""
    columns = min(len(values), size)
    edges = [i * len(values) // columns for i in range(columns + 1)] if columns else []
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    scale = (len(levels) - 1) / (high - low) if high > low else 0.0
    return "".join(levels[round((mean - low) * scale)] for mean in means)
