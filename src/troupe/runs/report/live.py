"""The live panel of a run: on a terminal, drawn with rich, or in a notebook. Both are imported when first drawn."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple, TextIO

from troupe.runs.report.view import (
    View,
    bottleneck_of,
    part_name,
    progress_of,
    stage_name,
    training_return,
)
from troupe.text import format_duration, format_return

_Span = tuple[str, str]  # text and its style


class _Glyphs(NamedTuple):
    full: str
    empty: str
    levels: str  # of the sparkline, low to high


_UNICODE = _Glyphs("━", "─", "▁▂▃▄▅▆▇█")
_ASCII = _Glyphs("=", "-", "_.:-=+*#")
_FAINT = "bright_black"
_COLOURS = {
    "env": "blue", "env_wait": "bright_blue", "delay": "yellow", "turn": "yellow", "act": "cyan", "predict": "cyan",
    "learn": "magenta", "other": _FAINT, "preempted": _FAINT,
}  # fmt: skip
_NOTEBOOK_WIDTH = 96  # letters


class LivePanel:
    """The panel of a terminal, which opens when first drawn; rich is imported only here."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="crop")
        self._glyphs = _UNICODE if stream.encoding.lower().startswith("utf") else _ASCII

    def draw(self, view: View) -> None:
        from rich.panel import Panel
        from rich.text import Text

        self._live.start()  # nothing, if it is open already
        width = min(self._console.width, 100)
        text = Text("\n", no_wrap=True, overflow="crop").join(
            Text.assemble(*line) for line in _lines(view, width - 4, self._glyphs)
        )
        title = Text(f" {format_duration(view.row['seconds'])} ", "bold")
        self._live.update(Panel(text, title=title, title_align="left", border_style="dim", width=width), refresh=True)

    def write_above(self, text: str) -> None:
        from rich.text import Text

        self._console.print(Text(text), end="", soft_wrap=True)

    def close(self) -> None:
        self._live.stop()


def in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


class NotebookPanel:
    """The same lines as the output of a notebook's cell, updated in place; notices are printed beside them."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown: Any = None

    def draw(self, view: View) -> None:
        from IPython.display import display  # type: ignore[import-not-found]

        lines = ["".join(text for text, _ in spans) for spans in _lines(view, _NOTEBOOK_WIDTH, _UNICODE)]
        text = {"text/plain": "\n".join([f"{format_duration(view.row['seconds'])} of training", *lines])}
        if self._shown is None:
            self._shown = display(text, raw=True, display_id=True)
        else:
            self._shown.update(text, raw=True)

    def write_above(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def close(self) -> None:
        pass


def _lines(view: View, width: int, glyphs: _Glyphs) -> Iterator[list[_Span]]:
    """The panel's lines, the most important first in each: a narrow terminal cuts off their ends."""
    row, limits = view.row, view.limits
    size = min(max(width // 4, 6), 30)

    def line(label: str, *spans: _Span) -> list[_Span]:
        return [(f"{label:<8} ", "bold"), *spans]

    progress = progress_of(view)
    left = progress.seconds_left
    at_most = "" if limits.target is None else "at most "
    yield line(
        "progress",
        *_bar([(progress.fraction, "green")], size, glyphs),
        (f"  {100 * progress.fraction:.0f} %", ""),
        (f"  {progress.words}", ""),
        ("" if left is None else f"  {at_most}{format_duration(left)} left", "dim"),
    )
    best = "" if view.best is None else f"  best evaluation {format_return(view.best)}"
    target = "" if limits.target is None else f"  target {limits.target:g}"
    yield line(
        "return",
        (f"{_sparkline(view.history, size, glyphs.levels):<{size}}", "green"),
        ("  training ", ""),
        (training_return(row).replace("/1k", " per 1,000 steps: no episode has ended"), "bold"),
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
        wait = f"wait {100 * shares['wait']:.0f} %  " if "wait" in shares else ""
        first, last = ([each for each in _stages(shares) if (each.style == _FAINT) == faint] for faint in (False, True))
        yield line(
            part_name(part),
            *_bar([(each.share, each.style) for each in (*first, *last)], size, glyphs),
            ("  ", ""),
            *((each.words, each.style) for each in first),
            (wait, "dim"),
            *((each.words, each.style) for each in last),
        )
    yield line(
        "speed",
        (f"{row.get('steps_per_s', 0):,.0f} steps/s", ""),
        (f"   {row.get('updates_per_s', 0):,.0f} updates/s", ""),
        (f"   {row.get('episodes', 0):,} episodes", "dim"),
    )
    if words := bottleneck_of(row):
        yield [(words, "yellow")]


class _Stage(NamedTuple):
    words: str
    share: float
    style: str


def _stages(shares: Mapping[str, float]) -> Iterator[_Stage]:
    """The stages of a part except waiting, without those that round to 0 %."""
    for stage, share in shares.items():
        if stage != "wait" and share >= 0.005:
            yield _Stage(f"{stage_name(stage)} {100 * share:.0f} %  ", share, _COLOURS.get(stage, "cyan"))


def _bar(parts: Iterable[tuple[float, str]], size: int, glyphs: _Glyphs) -> Iterator[_Span]:
    """Coloured shares of a bar, rounded cumulatively so that they never exceed it."""
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
