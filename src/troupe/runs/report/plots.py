"""Pictures of runs: mean return against steps and against training seconds.

Matplotlib is imported only where something is drawn, and without pyplot: its windows and global state belong to the
user's program.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from troupe.config import UsageError, presets
from troupe.runs.report.curves import Curve, Points, read_curve
from troupe.runs.report.labels import Settings, labels, read_settings, read_target
from troupe.safe_files import output_file, writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = Float[np.ndarray, " n"]

FORMATS = (".png", ".svg", ".pdf")
FEWEST = 3  # runs for a mean and a band
RESAMPLES = 2000  # of the runs, for the bootstrap band
GRID_POINTS = 200
SMOOTHING = 0.05  # of a run's steps, to either side
LEAST_SMOOTHING = 0.01  # at the end: the last report may be of a single episode
TOO_SHORT = 0.1  # of the longest group: where the shortest is shorter still, the axis is logarithmic


def plot_runs(runs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], title: str | None = None) -> None:
    """Draws the runs into the file `out`.

    One run shows every report and evaluation. Several are grouped by their settings, seeds excluded, and labelled by
    those in which they differ; a group of three or more is its mean with a 95 % bootstrap band, a smaller one each run.
    """
    with output_file(Path(out), FORMATS) as file:
        lines = [_line(Path(run)) for run in runs]
        if not lines:
            raise UsageError("no runs to plot: name at least one run directory")
        with writing(Path(out)):
            _draw(lines, file, title)


# What is drawn


@dataclass(frozen=True, eq=False)
class _Line:
    """One run, as it is drawn."""

    settings: Settings
    curve: Curve
    smooth: Values  # of the training return
    target: float | None

    @property
    def environment(self) -> str:
        return str(self.settings.get("env.id", ""))

    def by(self, axis: str) -> Values:
        return _along(self.curve, axis)


def _line(run: Path) -> _Line:
    curve = read_curve(run)
    if not len(curve.steps):
        raise UsageError(f"{run} has nothing to plot yet: its metrics.jsonl reports no finished episode")
    # By steps, not by episodes: the many short ones of a beginner would pull the line below a rise.
    smooth = _smoothed(curve.steps, curve.returns, np.diff(curve.steps, prepend=0).clip(1))
    settings = {"preset": run.name} | read_settings(run)
    return _Line(settings, curve, smooth, read_target(run, settings))


def _along(points: Curve | Points, axis: str) -> Values:
    return points.steps if axis == "steps" else points.seconds


def _smoothed(x: Values, y: Values, weight: Values) -> Values:
    """At each x the weighted mean of the y whose x lies within SMOOTHING of the whole range.

    Towards the ends the window shrinks: with later returns alone, the line would begin above what it is the mean of.
    """
    whole = x[-1] - x[0]
    reach = np.minimum(x - x[0], np.maximum(x[-1] - x, LEAST_SMOOTHING * whole)).clip(max=SMOOTHING * whole)
    first = np.searchsorted(x, x - reach, side="left")
    last = np.searchsorted(x, x + reach, side="right")
    total = np.concatenate([[0.0], np.cumsum(weight * y)])
    weights = np.concatenate([[0.0], np.cumsum(weight)])
    smooth: Values = (total[last] - total[first]) / (weights[last] - weights[first])
    return smooth


def _groups(lines: Sequence[_Line]) -> dict[str, list[_Line]]:
    """The runs by label."""
    groups: dict[str, list[_Line]] = {}
    for label, line in zip(labels([line.settings for line in lines]), lines, strict=True):
        groups.setdefault(label, []).append(line)
    return groups


def _band(values: Float[np.ndarray, "runs n"]) -> tuple[Values, Values]:
    """95 % percentile bootstrap of the mean over runs."""
    count = len(values)
    weights = np.random.default_rng(0).multinomial(count, [1 / count] * count, size=RESAMPLES) / count
    means = weights @ values
    return np.percentile(means, 2.5, axis=0), np.percentile(means, 97.5, axis=0)


# How it is drawn

# Okabe and Ito's colours, which colour-blind people can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", ":", "-.")  # for more groups than colours
MARK_SIZES = {"*": 12, "D": 6}
INK, SOFT, FAINT = "#222222", "#707070", "#8A8A8A"
DOTS = "training return (exploring actors):\nmean of the episodes since the report before"
NOTE = "lines: training return (of the exploring actors), smoothed"
MEAN_NOTE = "; of three runs and more also the mean (thick), in which a finished run keeps its last value"
SEVERAL = "returns of different environments are not comparable"
STYLE: dict[Any, Any] = {
    "figure.constrained_layout.wspace": 0.04,
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#BBBBBB",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "xtick.color": "#BBBBBB",
    "ytick.color": "#BBBBBB",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "svg.fonttype": "none",
}


def _draw(lines: Sequence[_Line], file: Path, title: str | None) -> None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, NullFormatter, StrMethodFormatter

    with rc_context(STYLE):
        figure = Figure(figsize=(12, 5), dpi=100, layout="constrained")
        panels: Sequence[Axes] = figure.subplots(1, 2, sharey=True)
        for panel, axis in zip(panels, ("steps", "seconds"), strict=True):
            if len(lines) == 1:
                _draw_run(panel, lines[0], axis)
            else:
                _draw_groups(panel, _groups(lines), axis)
            _draw_target(panel, lines)
            _draw_gaps(panel, lines, axis)
            if panel.get_xscale() == "linear":
                panel.set_xlim(left=0)
            panel.margins(x=0.02)
            panel.tick_params(length=3)
            panel.xaxis.set_minor_formatter(NullFormatter())
        panels[0].xaxis.set_major_formatter(EngFormatter(sep=""))
        panels[1].xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panels[0].set(xlabel="environment steps", ylabel="mean return of episodes")
        panels[1].set(xlabel="training seconds")
        _draw_legend(figure, panels[0], _note(lines))
        figure.suptitle(title or _title(lines), x=0.01, ha="left", weight="bold", size=14)
        figure.savefig(file, format=file.suffix[1:].lower())


def _note(lines: Sequence[_Line]) -> str | None:
    if len(lines) == 1:
        return None
    means = any(len(group) >= FEWEST for group in _groups(lines).values())
    several = len({line.environment for line in lines}) > 1
    return NOTE + MEAN_NOTE * means + f"\n{SEVERAL}" * several


def _draw_run(panel: "Axes", line: _Line, axis: str) -> None:
    x, curve = line.by(axis), line.curve
    panel.plot(x, curve.returns, ".", color=COLOURS[0], alpha=0.4, ms=6, mew=0, label=DOTS)
    panel.plot(x, line.smooth, color=COLOURS[0], lw=2.2, label="training return, smoothed")
    for points, label, mark, colour, size in (
        (curve.evaluations, "evaluation of the newest weights", "D", COLOURS[1], 7),
        (curve.final, "\n".join(["final evaluation, best weights", *_steps_of(curve.final)]), "*", COLOURS[2], 16),
        (curve.collapses, "collapse", "X", INK, 10),
    ):
        if len(points.steps):
            x = _along(points, axis)
            panel.plot(x, points.returns, mark, color=colour, ms=size, mec="white", label=label, zorder=4)


def _steps_of(final: Points) -> list[str]:
    """Which weights were the best, when training ended and after each resume: 'of step 8,075, evaluated at 23,361'."""
    pairs = list(zip(final.weights_steps.tolist(), final.steps.tolist(), strict=True))[-3:]
    return [f"of step {of:,}" + f", evaluated at {at:,}" * (of != at) for of, at in pairs if of >= 0]


def _draw_groups(panel: "Axes", groups: Mapping[str, Sequence[_Line]], axis: str) -> None:
    logarithmic = _differ_much(groups.values(), axis)
    panel.set_xscale("log" if logarithmic else "linear")
    for number, (name, lines) in zip(_numbers(groups), groups.items(), strict=True):
        colour = COLOURS[number % len(COLOURS)]
        dashes = DASHES[number // len(COLOURS) % len(DASHES)]
        averaged = len(lines) >= FEWEST
        style: dict[str, Any] = {"lw": 0.8, "alpha": 0.3} if averaged else {"lw": 1.8}
        for line in lines:
            panel.plot(line.by(axis), line.smooth, dashes, color=colour, **style)
            mark, points = _end_of(line)
            at, last = _along(points, axis)[-1:], points.returns[-1:]
            panel.plot(at, last, mark, color=colour, ms=MARK_SIZES[mark], mec="white", mew=0.6, alpha=0.8, zorder=4)
        if averaged:
            _draw_mean(panel, lines, axis, np.geomspace if logarithmic else np.linspace, dashes, colour)
        runs = f" ({len(lines)} runs)" if len(lines) > 1 else ""
        panel.plot([], [], dashes, color=colour, lw=2.2, label=name + runs)
    if any(len(lines) >= FEWEST for lines in groups.values()):
        panel.plot([], [], color=SOFT, lw=0.8, alpha=0.6, label="each run")
        panel.fill_between([], [], color=SOFT, alpha=0.25, lw=0, label="95 % bootstrap band of the mean")
    marks = {_end_of(line)[0] for lines in groups.values() for line in lines}
    for mark, label in (
        ("*", "final evaluation of a run's best weights"),
        ("D", "last evaluation of an unfinished run"),
    ):
        if mark in marks:
            panel.plot([], [], mark, color=SOFT, ms=MARK_SIZES[mark], mec="white", mew=0.6, label=label)


def _draw_mean(
    panel: "Axes", lines: Sequence[_Line], axis: str, spaced: Callable[..., Values], dashes: str, colour: str
) -> None:
    grid = spaced(min(line.by(axis)[0] for line in lines), max(line.by(axis)[-1] for line in lines), GRID_POINTS)
    # A finished run keeps its last return: the mean over the others would fall whenever a good run reaches its
    # target and ends.
    values = np.stack([np.interp(grid, line.by(axis), line.smooth) for line in lines])
    panel.fill_between(grid, *_band(values), color=colour, alpha=0.2, lw=0)
    panel.plot(grid, values.mean(axis=0), dashes, color=colour, lw=2.2)


def _end_of(line: _Line) -> tuple[str, Points]:
    """What a run is judged by among others: its final evaluation, or the last one where there is no final one."""
    return ("*", line.curve.final) if len(line.curve.final.steps) else ("D", line.curve.evaluations)


def _numbers(groups: Iterable[str]) -> Sequence[int]:
    """Presets have a fixed number, and so a fixed colour, in every picture; other groups are counted."""
    names, known = list(groups), presets()
    return [known.index(name) for name in names] if set(names) <= set(known) else range(len(names))


def _differ_much(groups: Iterable[Sequence[_Line]], axis: str) -> bool:
    """Whether the shortest group would be squeezed into a corner by the longest."""
    ends = [(min(line.by(axis)[0] for line in lines), max(line.by(axis)[-1] for line in lines)) for lines in groups]
    starts, lengths = zip(*ends, strict=True)
    return bool(min(starts) > 0 and min(lengths) < TOO_SHORT * max(lengths))


def _draw_target(panel: "Axes", lines: Sequence[_Line]) -> None:
    """If all runs that have a target have the same one, in the same environment."""
    targets = {line.target for line in lines if line.target is not None}
    if len(targets) != 1 or len({line.environment for line in lines}) != 1:
        return
    (target,) = targets
    panel.axhline(target, color=FAINT, lw=1.2, ls=(0, (4, 3)), zorder=1)
    panel.annotate(
        f"target {target:g}", (0, target), xycoords=("axes fraction", "data"), xytext=(6, 3),
        textcoords="offset points", ha="left", va="bottom", color=SOFT, size=10,
    )  # fmt: skip


def _draw_gaps(panel: "Axes", lines: Sequence[_Line], axis: str) -> None:
    """Marks where a full disk left no metrics: the lines there only join what is on either side."""
    gaps = [gap[:2] if axis == "steps" else gap[2:] for line in lines for gap in line.curve.gaps]
    for number, (start, end) in enumerate(gaps):
        panel.axvspan(
            start, end, color=FAINT, alpha=0.25, lw=1, zorder=0, label="" if number else "metrics could not be written"
        )


def _draw_legend(figure: "Figure", panel: "Axes", note: str | None) -> None:
    handles, labels = panel.get_legend_handles_labels()
    widest = max(len(line) for label in labels for line in label.splitlines())
    columns = max(1, min(len(labels), 130 // (8 + widest)))  # 130 letters fit into the width
    legend = figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, title=note, title_fontsize=9
    )  # fmt: skip
    legend.get_title().set_color(SOFT)


def _title(lines: Sequence[_Line]) -> str:
    first = lines[0]
    if len(lines) == 1:
        seed = f"seed {first.settings['seed']}" if "seed" in first.settings else ""
        return " · ".join(filter(None, (first.environment, str(first.settings["preset"]), seed)))
    return first.environment if len({line.environment for line in lines}) == 1 else "mean return"
