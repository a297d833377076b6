"""Pictures of runs: mean return against steps and against training seconds.

Matplotlib is imported only where something is drawn, and without pyplot: the pictures are made inside
programs that have no use for its windows and its global state.
"""

import json
import os
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from troupe.config import UsageError, presets

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = Float[np.ndarray, " n"]

FORMATS = (".png", ".svg", ".pdf")
RESAMPLES = 2000  # of the runs, for the bootstrap band
GRID_POINTS = 200
SMOOTHING = 0.05  # of a run's steps, to either side
TOO_SHORT = 0.1  # of the longest group: where the shortest is shorter still, the axis is logarithmic


def plot_runs(runs: Sequence[Path], out: Path, title: str | None = None) -> None:
    """Draws the runs into the file `out`.

    One run shows every report and evaluation. Several are grouped by environment and preset where these
    differ, and each group gives its mean with a 95 % bootstrap band over its runs.
    """
    with output_file(out, FORMATS) as file:
        curves = [_curve(run) for run in runs]
        if not curves:
            raise UsageError("no runs to plot: name at least one run directory")
        _draw(curves, file, title)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl. A line that a crash cut short is passed over."""
    file = run / "metrics.jsonl"
    if not file.is_file():
        raise UsageError(f"{run} is not a run directory: it has no metrics.jsonl")
    rows = []
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(row, dict):
                rows.append(row)
    return rows


@contextmanager
def output_file(file: Path, formats: Sequence[str]) -> Iterator[Path]:
    """Yields a path to write to, beside `file`, that takes its place at the end, or is removed on failure."""
    if file.suffix.lower() not in formats:
        known = " or ".join(filter(None, (", ".join(formats[:-1]), formats[-1])))
        raise UsageError(f"cannot write {file}: its name must end in {known}")
    if not file.parent.is_dir():
        raise UsageError(f"cannot write {file}: there is no folder {file.parent}")
    if file.is_dir() or not os.access(file.parent, os.W_OK):
        raise UsageError(f"cannot write {file}: {'it is a folder' if file.is_dir() else 'permission denied'}")
    unfinished = file.with_name(f".{file.stem}.{os.getpid()}{file.suffix}")
    try:
        yield unfinished
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


# What is drawn


@dataclass(frozen=True)
class _Curve:
    """One run's returns, by steps and by training seconds."""

    environment: str
    preset: str
    seed: int | None
    target: float | None
    steps: Values
    seconds: Values
    returns: Values  # mean of the episodes that ended since the last report
    smooth: Values
    evaluations: Float[np.ndarray, "m 3"]  # steps, seconds, mean
    collapses: Float[np.ndarray, "k 3"]  # the same of the evaluations that showed one

    def by(self, axis: str) -> Values:
        return self.steps if axis == "steps" else self.seconds


def _curve(run: Path) -> _Curve:
    rows = _in_order(read_metrics(run))
    reports = _table(rows, "report", "steps", "seconds", "return_mean", "episodes")
    if not len(reports):
        raise UsageError(f"{run} has nothing to plot yet: its metrics.jsonl reports no finished episode")
    config = _config(run)
    target = config.get("stop", {}).get("target")
    return _Curve(
        environment=config.get("env", {}).get("id", ""),
        preset=config.get("preset", run.name),
        seed=config.get("seed"),
        target=float(target) if isinstance(target, int | float) else None,
        steps=reports[:, 0],
        seconds=reports[:, 1],
        returns=reports[:, 2],
        smooth=_smoothed(reports[:, 0], reports[:, 2], np.diff(reports[:, 3], prepend=0).clip(1)),
        evaluations=_table(rows, "evaluation", "steps", "seconds", "mean"),
        collapses=_table(rows, "collapse", "steps", "seconds", "mean"),
    )


def _in_order(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Without what a resumed run did again: rows with more steps than a later report.

    Only reports show a resumption; an evaluation may be of weights older than the report before it.
    """
    kept: list[Mapping[str, Any]] = []
    reached = 0
    for row in rows:
        if row.get("kind") == "report":
            steps = row.get("steps", reached)
            if steps < reached:
                kept = [earlier for earlier in kept if earlier.get("steps", 0) <= steps]
            reached = steps
        kept.append(row)
    return kept


def _table(rows: Sequence[Mapping[str, Any]], kind: str, *names: str) -> Float[np.ndarray, "n names"]:
    """The named numbers of the rows of a kind that have them all and finite."""
    table = [[row.get(name) for name in names] for row in rows if row.get("kind") == kind]
    numbers = np.array(table, dtype=float).reshape(-1, len(names))  # None becomes NaN
    finite: Float[np.ndarray, "n names"] = numbers[np.isfinite(numbers).all(axis=1)]
    return finite


def _smoothed(x: Values, y: Values, weight: Values) -> Values:
    """At each x the weighted mean of the y whose x lies within SMOOTHING of the whole range."""
    reach = SMOOTHING * (x[-1] - x[0])
    first = np.searchsorted(x, x - reach, side="left")
    last = np.searchsorted(x, x + reach, side="right")
    total = np.concatenate([[0.0], np.cumsum(weight * y)])
    weights = np.concatenate([[0.0], np.cumsum(weight)])
    smooth: Values = (total[last] - total[first]) / (weights[last] - weights[first])
    return smooth


def _config(run: Path) -> dict[str, Any]:
    """What the run was told, as far as it can be read: a picture needs only labels from it."""
    try:
        return tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _groups(curves: Sequence[_Curve]) -> dict[str, list[_Curve]]:
    """The curves by the words in which they differ; by preset where they do not."""
    environments = len({curve.environment for curve in curves}) > 1
    presets = len({curve.preset for curve in curves}) > 1 or not environments
    groups: dict[str, list[_Curve]] = {}
    for curve in curves:
        words = [curve.environment] * environments + [curve.preset] * presets
        groups.setdefault(" · ".join(words), []).append(curve)
    return groups


def _band(values: Float[np.ndarray, "runs n"]) -> tuple[Values, Values]:
    """95 % percentile bootstrap of the mean over runs."""
    count = len(values)
    weights = np.random.default_rng(0).multinomial(count, [1 / count] * count, size=RESAMPLES) / count
    means = weights @ values
    return np.percentile(means, 2.5, axis=0), np.percentile(means, 97.5, axis=0)


# How it is drawn

# Okabe and Ito's colours, which everybody can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", ":", "-.")  # for more groups than colours
INK, SOFT, FAINT = "#222222", "#707070", "#8A8A8A"
NOTE = (
    "line: training return (what the exploring actors got), mean over runs; a run that has ended keeps its last · "
    "band: 95 % bootstrap of the mean · diamonds: last evaluation return of each run"
)
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


def _draw(curves: Sequence[_Curve], file: Path, title: str | None) -> None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, NullFormatter, StrMethodFormatter

    with rc_context(STYLE):
        figure = Figure(figsize=(12, 5), dpi=100, layout="constrained")
        panels: Sequence[Axes] = figure.subplots(1, 2, sharey=True)
        for panel, axis in zip(panels, ("steps", "seconds"), strict=True):
            if len(curves) == 1:
                _draw_run(panel, curves[0], axis)
            else:
                _draw_groups(panel, _groups(curves), axis)
            _draw_target(panel, curves)
            if panel.get_xscale() == "linear":
                panel.set_xlim(left=0)
            panel.margins(x=0.02)
            panel.tick_params(length=3)
            panel.xaxis.set_minor_formatter(NullFormatter())
        panels[0].xaxis.set_major_formatter(EngFormatter(sep=""))
        panels[1].xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panels[0].set(xlabel="environment steps", ylabel="mean return")
        panels[1].set(xlabel="training seconds")
        _draw_legend(figure, panels[0], NOTE if len(curves) > 1 else None)
        figure.suptitle(title or _title(curves), x=0.01, ha="left", weight="bold", size=14)
        figure.savefig(file, format=file.suffix[1:].lower())


def _draw_run(panel: "Axes", curve: _Curve, axis: str) -> None:
    x, points, collapses = curve.by(axis), curve.evaluations, curve.collapses
    panel.plot(x, curve.returns, ".", color=COLOURS[0], alpha=0.4, ms=6, mew=0, label="training return")
    panel.plot(x, curve.smooth, color=COLOURS[0], lw=2.2, label="training return, smoothed")
    if len(points):
        at = points[:, 0 if axis == "steps" else 1]
        panel.plot(at, points[:, 2], "D", color=COLOURS[1], ms=7, mec="white", label="evaluation return", zorder=4)
    if len(collapses):
        at = collapses[:, 0 if axis == "steps" else 1]
        panel.plot(at, collapses[:, 2], "X", color=INK, ms=10, mec="white", label="collapse", zorder=5)


def _draw_groups(panel: "Axes", groups: Mapping[str, Sequence[_Curve]], axis: str) -> None:
    logarithmic = _differ_much(groups.values(), axis)
    spaced: Callable[..., Values] = np.geomspace if logarithmic else np.linspace
    panel.set_xscale("log" if logarithmic else "linear")
    for number, (name, curves) in zip(_numbers(groups), groups.items(), strict=True):
        colour = COLOURS[number % len(COLOURS)]
        dashes = DASHES[number // len(COLOURS) % len(DASHES)]
        start = min(curve.by(axis)[0] for curve in curves)
        grid = spaced(start, max(curve.by(axis)[-1] for curve in curves), GRID_POINTS)
        # A run that has ended keeps its last return: a mean over those still going would fall whenever
        # a good run reaches its target and leaves.
        values = np.stack([np.interp(grid, curve.by(axis), curve.smooth) for curve in curves])
        for curve in curves:
            panel.plot(curve.by(axis), curve.smooth, color=colour, lw=0.8, alpha=0.25)
            for steps, seconds, mean in curve.evaluations[-1:]:
                end = steps if axis == "steps" else seconds
                panel.plot(end, mean, "D", color=colour, ms=6, mec="white", mew=0.6, alpha=0.8, zorder=4)
        if len(curves) > 1:
            panel.fill_between(grid, *_band(values), color=colour, alpha=0.2, lw=0)
        runs = f" ({len(curves)} runs)" if len(curves) > 1 else ""
        panel.plot(grid, values.mean(axis=0), dashes, color=colour, lw=2.2, label=name + runs)


def _numbers(groups: Iterable[str]) -> Sequence[int]:
    """Presets have a number, and so a colour, of their own in every picture; other groups are counted."""
    names, known = list(groups), presets()
    return [known.index(name) for name in names] if set(names) <= set(known) else range(len(names))


def _differ_much(groups: Iterable[Sequence[_Curve]], axis: str) -> bool:
    """Whether the shortest group would be squeezed into a corner by the longest."""
    ends = [
        (min(curve.by(axis)[0] for curve in curves), max(curve.by(axis)[-1] for curve in curves)) for curves in groups
    ]
    starts, lengths = zip(*ends, strict=True)
    return bool(min(starts) > 0 and min(lengths) < TOO_SHORT * max(lengths))


def _draw_target(panel: "Axes", curves: Sequence[_Curve]) -> None:
    """Of those runs that have one, if it is one and the same."""
    targets = {curve.target for curve in curves if curve.target is not None}
    if len(targets) != 1 or len({curve.environment for curve in curves}) != 1:
        return
    (target,) = targets
    panel.axhline(target, color=FAINT, lw=1.2, ls=(0, (4, 3)), zorder=1)
    panel.annotate(
        f"target {target:g}", (0, target), xycoords=("axes fraction", "data"), xytext=(6, 3),
        textcoords="offset points", ha="left", va="bottom", color=SOFT, size=10,
    )  # fmt: skip


def _draw_legend(figure: "Figure", panel: "Axes", note: str | None) -> None:
    handles, labels = panel.get_legend_handles_labels()
    columns = max(1, min(len(labels), 130 // (8 + max(map(len, labels)))))  # 130 letters fit into the width
    legend = figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, title=note, title_fontsize=9
    )  # fmt: skip
    legend.get_title().set_color(SOFT)


def _title(curves: Sequence[_Curve]) -> str:
    first = curves[0]
    if len(curves) == 1:
        seed = "" if first.seed is None else f"seed {first.seed}"
        return " · ".join(filter(None, (first.environment, first.preset, seed)))
    return first.environment if len({curve.environment for curve in curves}) == 1 else "mean return"
