"""The live panel of a run, on a terminal or in a notebook. Both are drawn with rich, which is imported when needed."""

import io
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, TextIO

from troupe.runs.report.words import View, bottleneck_words, part_name, progress, time_left, training_return
from troupe.runs.store.curve_descriptions import stage_name
from troupe.text import counted, format_duration, format_return, format_speed

if TYPE_CHECKING:
    from rich.panel import Panel

_BAR = {True: ("█", "─"), False: ("#", "-")}  # with Unicode, without: full and empty
_LEVELS = {True: "▁▂▃▄▅▆▇█", False: "_.:-=+*#"}  # of the sparkline, low to high
_FAINT = "bright_black"
_STAGES = {  # the character of each in a bar, with Unicode and without, as colours alone do not tell; and its colour
    "env": ("█#", "blue"), "env_wait": ("▚%", "bright_blue"), "delay": ("░~", "yellow"), "turn": ("▞/", "yellow"),
    "act": ("▒=", "cyan"), "predict": ("█#", "cyan"), "learn": ("█#", "magenta"), "wait": ("·.", "dim"),
    "average": ("▒=", "magenta"), "other": ("▪:", _FAINT), "preempted": ("xx", _FAINT),
}  # fmt: skip
_UNKNOWN = "▓@", "cyan"
_LAST = ("other", "preempted", "wait")  # stages that are shown last, in this order
_LEFT_OUT = ("speed", "lag", "queue", "predictors", "actors", "learner")  # rows, where there are too few lines
_WIDTH, _NOTEBOOK_WIDTH = 100, 96  # characters, at most


class TerminalPanel:
    """The panel of a terminal, which opens when first drawn; text is written above it."""

    pause_seconds = 0.25

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="crop")

    def draw(self, view: View) -> None:
        self._live.start()  # no effect if it is open
        width, unicode = min(self._console.width, _WIDTH), self._console.encoding.startswith("utf")
        for count in range(len(_LEFT_OUT) + 1):
            panel = run_panel(view, width, unicode=unicode, without=_LEFT_OUT[:count])
            if len(self._console.render_lines(panel)) <= self._console.height:
                break
        self._live.update(panel, refresh=True)

    def write(self, text: str) -> None:
        from rich.text import Text

        self._console.print(Text(text), end="", soft_wrap=True)

    def close(self) -> None:
        self._live.stop()


def in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


class TextOutput:
    """Plain text: lines are appended, and nothing is redrawn."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def close(self) -> None:
        """There is nothing to restore."""


class NotebookPanel(TextOutput):
    """The same panel as the output of a notebook's cell, updated in place; text is written beside it."""

    pause_seconds = TerminalPanel.pause_seconds

    _shown: Any = None

    def draw(self, view: View) -> None:
        from IPython.display import display  # type: ignore[import-not-found]
        from rich.console import Console

        console = Console(file=io.StringIO(), width=_NOTEBOOK_WIDTH, force_terminal=False, force_jupyter=False)
        with console.capture() as drawn:
            console.print(run_panel(view, _NOTEBOOK_WIDTH, unicode=True))
        text = {"text/plain": drawn.get().rstrip()}
        if self._shown is None:
            self._shown = display(text, raw=True, display_id=True)
        else:
            self._shown.update(text, raw=True)


def run_panel(view: View, width: int, *, unicode: bool, without: Collection[str] = ()) -> "Panel":
    """A row for each quantity but those `without`: its name, a chart or a number, and a text, which is wrapped if there
    is little room."""
    from rich.columns import Columns
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    row, size = view.row, min(max(width // 5, 6), 30)
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column()

    full, empty = _BAR[unicode]

    def bar(*parts: tuple[float, str, str]) -> Text:
        return Text.assemble(*_bar(parts, size, empty))

    def add(name: str, chart: Text | str, text: Any) -> None:
        if name not in without:
            grid.add_row(name, chart, text)

    fraction, words = progress(view)
    add("progress", bar((fraction, full, "green")), words)
    chart = Text(_sparkline(view.returns, size, _LEVELS[unicode]), "green")
    add("return", chart, "\n".join(_return_words(view)))
    depth, capacity = row.get("queue_depth", 0), row.get("queue_capacity", 0)
    if capacity:
        waiting = f"{depth:,} of {capacity:,} rollouts wait to be learned from"
        add("queue", bar((depth / capacity, full, "yellow")), waiting)
    lag = "-" if row.get("lag_mean") is None else f"{row['lag_mean']:.1f} (max {row['lag_max']:,})"
    add("lag", lag, "weight versions from acting to learning, mean")
    for part, shares in row.get("shares", {}).items():
        shown = [stage for stage, share in shares.items() if share >= 0.005]
        stages = sorted(shown, key=lambda stage: _LAST.index(stage) if stage in _LAST else -1)
        charted, named = [], list[Text]()
        for stage in stages:
            glyphs, colour = _STAGES.get(stage, _UNKNOWN)
            glyph = glyphs[0 if unicode else 1]
            words = f"{glyph} {stage_name(stage)} {100 * shares[stage]:.0f} %"
            named.append(Text.assemble("" if named else "time: ", (words, colour)))
            charted.append((shares[stage], glyph, colour))
        add(part_name(part), bar(*charted), Columns(named, padding=(0, 2)))
    updates = f"{format_speed(row.get('updates_per_s'))} updates/s"
    speed = f"{format_speed(row.get('steps_per_s'))} steps/s"
    add("speed", speed, f"and {updates} lately; {row.get('episodes', 0):,} episodes so far")
    limit = [Text(words, "yellow")] if (words := bottleneck_words(row)) else []
    trained = f"{row['steps']:,} steps in {format_duration(row['seconds'])} of training"
    title = Text(f" {trained}{time_left(row, view.limits)} ", "bold")
    return Panel(Group(grid, *limit), title=title, title_align="left", border_style="dim", width=width)


def _return_words(view: View) -> Iterator[str]:
    """The range of the chart; the current training return; the best evaluation; the target."""
    row, limits, returns, best = view
    if returns:
        yield f"training return so far, {format_return(min(returns))} to {format_return(max(returns))}"
    now = training_return(row)
    if now.endswith("/1k"):
        yield f"training {now.removesuffix('/1k')} per 1,000 steps: no episode has ended"
    else:
        yield f"training {now} (latest {min(row.get('episodes', 100), 100)} episodes, exploring)"
    if best is not None:
        yield f"best evaluation {format_return(best)} ({'greedy' if limits.greedy else 'sampled actions'})"
    if limits.target is not None:
        yield f"target {limits.target:g}, to be confirmed by {counted(limits.episodes, 'episode')}"


def _bar(parts: Iterable[tuple[float, str, str]], size: int, empty: str) -> Iterator[tuple[str, str]]:
    """Shares of a bar, each with its character and its colour.

    Rounded cumulatively; a share above 0 has at least one character, which the longest gives up where there is no room.
    """
    charted = list(parts)
    edges = [round(total * size) for total in accumulate((share for share, _, _ in charted), initial=0.0)]
    cells = [
        max(after - before, share > 0) for (share, _, _), (before, after) in zip(charted, pairwise(edges), strict=True)
    ]
    while sum(cells) > size:
        cells[cells.index(max(cells))] -= 1
    for count, (_, glyph, style) in zip(cells, charted, strict=True):
        yield glyph * count, style
    yield empty * (size - sum(cells)), "dim"


def _sparkline(values: Sequence[float], size: int, levels: str) -> str:
    """The values from low to high, averaged into at most `size` columns."""
    columns = min(len(values), size)
    edges = [i * len(values) // columns for i in range(columns + 1)] if columns else []
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    scale = (len(levels) - 1) / (high - low) if high > low else 0.0
    return "".join(levels[round((mean - low) * scale)] for mean in means)
