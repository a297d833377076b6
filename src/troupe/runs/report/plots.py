"""Pictures of runs: mean return against steps and against training seconds.

Matplotlib is imported only where something is drawn, and without pyplot: its windows and global state belong to the
user's program.
"""

import os
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from troupe.config import UsageError, presets
from troupe.runs.report.curves import TRAINING_RETURN, Points
from troupe.runs.report.labels import comparable, labels
from troupe.runs.report.lines import (
    Groups,
    Line,
    Values,
    all_lines,
    along,
    bootstrap_band,
    differ_much,
    grouped,
    lines_of,
    target_of_each,
    targets_of,
)
from troupe.safe_files import output_file, writing
from troupe.text import by_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")
FEWEST = 5  # runs for a mean and a band: the bootstrap band of three is their minimum and maximum
GRID_POINTS = 200


def plot_runs(
    runs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    title: str | None = None,
    *,
    names: Sequence[str] | None = None,
    note: str = "",
    metrics: Sequence[str] = (TRAINING_RETURN,),
) -> None:
    """Draws the runs into the file `out`: their returns, or one below the other the `metrics` of their reports.

    One run shows every report and evaluation. Several are grouped by `names`, or else by their settings, seeds
    excluded, and labelled by those in which they differ; a group of five or more is its mean with a 95 % bootstrap
    band, a smaller one each run. `note` is written below.
    """
    with output_file(Path(out), FORMATS) as file:
        if not runs:
            raise UsageError("no runs to plot: name at least one run directory")
        lines = {metric: lines_of([Path(run) for run in runs], metric) for metric in metrics}
        first = lines[metrics[0]]
        names = names or labels(comparable([(line.settings, line.measured) for line in first]))
        with writing(Path(out)):
            _draw({metric: grouped(its, names) for metric, its in lines.items()}, file, title, note)


# Okabe and Ito's colours, which colour-blind people can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#101010")
Dashes = str | tuple[int, tuple[int, ...]]
DASHES: tuple[Dashes, ...] = ("-", "--", "-.", (0, (6, 1, 1, 1, 1, 1)))  # for seeds, or for more groups than colours
DOTTED: Dashes = (0, (1, 3))  # for targets
NOTE_WIDTH = 165  # characters
MARK_SIZES = {"*": 12, "D": 6}
CONNECTOR: dict[str, Any] = {"linewidth": 0.8, "alpha": 0.7, "linestyle": (0, (2, 1))}
INK, SOFT, FAINT = "#222222", "#707070", "#8A8A8A"
TRAINING = "training return (exploring actors)"
DOTS = f"{TRAINING}:\nmean of the episodes since the previous report"
NOTE = "lines: training return (of the exploring actors), smoothed"
RESUMED = "where the run was resumed"
GREEDY_NOTE = "; evaluated greedily, the same weights usually score more"
MEAN_NOTE = "; of five runs and more their mean (thick; a finished run keeps its last value) and each (thin)"
BAND = "95 % bootstrap interval of the mean over runs"
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


def _draw(metrics: Mapping[str, Groups], file: Path, title: str | None, note: str) -> None:
    """A row of two panels for each metric."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, NullFormatter, StrMethodFormatter

    groups = next(iter(metrics.values()))
    lines = all_lines(groups)
    formatters = {"steps": EngFormatter(sep=""), "seconds": StrMethodFormatter("{x:g}")}
    with rc_context(STYLE):
        figure = Figure(figsize=(12, 2 + 3 * len(metrics)), dpi=100, layout="constrained")
        panels = figure.subplots(len(metrics), 2, sharey="row", squeeze=False)
        for row, (metric, its) in zip(panels, metrics.items(), strict=True):
            returns = metric == TRAINING_RETURN
            row[0].set(xlabel="environment steps", ylabel="mean return of episodes" if returns else metric)
            row[1].set(xlabel="training seconds")
            for panel, (axis, formatter) in zip(row, formatters.items(), strict=True):
                if len(lines) == 1:
                    _draw_run(panel, all_lines(its)[0], axis, returns)
                else:
                    _draw_groups(panel, its, axis)
                if returns:
                    _draw_targets(panel, its)
                _draw_gaps(panel, all_lines(its), axis)
                if panel.get_xscale() == "linear":
                    panel.set_xlim(left=0)
                else:
                    panel.set_xlabel(f"{panel.get_xlabel()} (logarithmic)")
                panel.margins(x=0.02)
                panel.tick_params(length=3)
                panel.xaxis.set_minor_formatter(NullFormatter())
                panel.xaxis.set_major_formatter(formatter)
        notes = *_notes(groups, TRAINING_RETURN in metrics), note
        _draw_legend(figure, panels[:, 0], "\n".join(textwrap.fill(each, NOTE_WIDTH) for each in notes if each))
        figure.suptitle(title or _title(lines), x=0.01, ha="left", weight="bold", size=14)
        figure.savefig(file, format=file.suffix[1:].lower())


def _notes(groups: Groups, returns: bool) -> Iterator[str]:
    lines = all_lines(groups)
    if len(lines) > 1:
        means = MEAN_NOTE * any(len(group) >= FEWEST for group in groups.values())
        greedy = GREEDY_NOTE * (returns and all(line.greedy for line in lines))
        yield (NOTE if returns else "lines: smoothed") + means + greedy
    if not returns:
        return
    if len({line.environment for line in lines}) > 1:
        yield SEVERAL
    elif len(targets_of(groups)) > 1:
        yield f"targets differ: {by_value(target_of_each(groups))}"


def _draw_run(panel: "Axes", line: Line, axis: str, returns: bool) -> None:
    x, curve = line.by(axis), line.curve
    dots, smooth = (DOTS, f"{TRAINING}, smoothed") if returns else ("each report", "smoothed")
    panel.plot(x, curve.returns, ".", color=COLOURS[0], alpha=0.4, ms=6, mew=0, label=dots)
    panel.plot(x, line.smooth, color=COLOURS[0], lw=2.2, label=smooth)
    for points, label, mark, colour, size, order in (  # the smaller a mark, the further in front
        (curve.evaluations, f"evaluation of the newest weights ({_actions([line])})", "D", COLOURS[1], 5, 6),
        (curve.final, _final_words(line), "*", COLOURS[2], 26, 4),
        (curve.collapses, "collapse", "X", INK, 15, 5),
    ):
        if len(points.steps):
            x = along(points, axis)
            panel.plot(x, points.returns, mark, color=colour, ms=size, mec="white", label=label, zorder=order)
    for number, at in enumerate(curve.resumptions[:, 0 if axis == "steps" else 1]):
        panel.axvline(at, color=FAINT, lw=1, ls="--", zorder=1, label="" if number else RESUMED)


def _actions(lines: Iterable[Line]) -> str:
    """How those of evaluations are chosen."""
    return " or ".join(dict.fromkeys("greedy" if line.greedy else "sampled actions" for line in lines))


def _final_words(line: Line) -> str:
    """Which weights were the best, when training ended and after each resume: 'of step 8,075, evaluated at 23,361'."""
    final = line.curve.final
    pairs = list(zip(final.weights_steps.tolist(), final.steps.tolist(), strict=True))[-3:]
    steps = [f"weights of step {of:,}" + f", evaluated at step {at:,}" * (of != at) for of, at in pairs if of >= 0]
    several = "s" * (len(final.steps) > 1)
    return "\n".join([f"final evaluation{several} of the best weights ({_actions([line])})", *steps])


def _draw_groups(panel: "Axes", groups: Groups, axis: str) -> None:
    from matplotlib.collections import LineCollection

    groups = {name: [line for line in lines if len(line.smooth)] for name, lines in groups.items()}
    logarithmic = differ_much([lines for lines in groups.values() if lines], axis)
    panel.set_xscale("log" if logarithmic else "linear")
    seeds = _dashes_of_seeds(groups)
    for (name, lines), (colour, dashes) in zip(groups.items(), _styles(groups), strict=True):
        averaged = len(lines) >= FEWEST
        style: dict[str, Any] = {"lw": 0.8, "alpha": 0.3} if averaged else {"lw": 1.8}
        for line in lines:
            own = dashes if averaged else seeds.get(line.seed, dashes)
            panel.plot(line.by(axis), line.smooth, ls=own, color=colour, **style)
            mark, points = _end_of(line)
            at, last = along(points, axis)[-1:], points.returns[-1:]
            if not len(at):
                continue
            ends = [(line.by(axis)[-1], line.smooth[-1]), *zip(at, last, strict=True)]
            panel.add_collection(LineCollection([ends], colors=colour, **CONNECTOR), autolim=False)
            panel.plot(at, last, mark, color=colour, ms=MARK_SIZES[mark], mec="white", mew=0.6, alpha=0.8, zorder=4)
        if averaged:
            _draw_mean(panel, lines, axis, np.geomspace if logarithmic else np.linspace, dashes, colour)
        runs = f" ({len(lines)} runs)" if len(lines) > 1 else ""
        panel.plot([], ls=dashes, color=colour, lw=2.2, label=name + runs)
    for seed, dashes in seeds.items():
        panel.plot([], ls=dashes, color=SOFT, lw=1.8, label=f"seed {seed}")
    if any(len(lines) >= FEWEST for lines in groups.values()):
        panel.plot([], color=SOFT, lw=0.8, alpha=0.6, label="each run")
        panel.fill_between([], [], color=SOFT, alpha=0.25, lw=0, label=BAND)
    actions = _actions(all_lines(groups))
    marks = {mark for mark, points in map(_end_of, all_lines(groups)) if len(points.steps)}
    for mark, label in (
        ("*", "final evaluation of a run's best weights"),
        ("D", "last evaluation of an unfinished run"),
    ):
        if mark in marks:
            label += f" ({actions})"
            panel.plot([], mark, color=SOFT, ms=MARK_SIZES[mark], mec="white", mew=0.6, label=label)
    if marks:
        panel.plot([], color=SOFT, **CONNECTOR, label="from a run's line to its evaluation")


def _dashes_of_seeds(groups: Groups) -> dict[str, Dashes]:
    """By seed, where several runs of a group are drawn one by one; nothing where dashes would not do."""
    drawn = [line for lines in groups.values() if 1 < len(lines) < FEWEST for line in lines]
    seeds = sorted({line.seed for line in drawn}, key=lambda seed: (len(seed), seed))
    few = 1 < len(seeds) <= len(DASHES) and len(groups) <= len(COLOURS)
    return dict(zip(seeds, DASHES, strict=False)) if few else {}


def _styles(groups: Groups) -> list[tuple[str, Dashes]]:
    """The colour and the dashes of each group."""
    count = len(COLOURS)
    return [(COLOURS[number % count], DASHES[number // count % len(DASHES)]) for number in _numbers(groups)]


def _draw_mean(
    panel: "Axes", lines: Sequence[Line], axis: str, spaced: Callable[..., Values], dashes: Dashes, colour: str
) -> None:
    grid = spaced(min(line.by(axis)[0] for line in lines), max(line.by(axis)[-1] for line in lines), GRID_POINTS)
    # A finished run keeps its last return: the mean over the others would fall whenever a good run reaches its
    # target and ends.
    values = np.stack([np.interp(grid, line.by(axis), line.smooth) for line in lines])
    panel.fill_between(grid, *bootstrap_band(values), color=colour, alpha=0.2, lw=0)
    panel.plot(grid, values.mean(axis=0), ls=dashes, color=colour, lw=2.2)


def _end_of(line: Line) -> tuple[str, Points]:
    """The evaluation by which a run is compared with others: the final one, or else the last."""
    return ("*", line.curve.final) if len(line.curve.final.steps) else ("D", line.curve.evaluations)


def _numbers(groups: Iterable[str]) -> Sequence[int]:
    """Presets ("appo", or "appo, tuned") have a fixed number, and so a fixed colour; other groups are counted."""
    names, known = [name.partition(",")[0] for name in groups], presets()
    fixed = set(names) <= set(known) and len(set(names)) == len(names)
    return [known.index(name) for name in names] if fixed else range(len(names))


def _draw_targets(panel: "Axes", groups: Groups) -> None:
    """Each target, with the name of the group that alone has it; none where environments differ."""
    targets = targets_of(groups)
    if len({line.environment for line in all_lines(groups)}) > 1:
        return
    colours = dict(zip(groups, (colour for colour, _ in _styles(groups)), strict=True))
    for target, names in targets.items():
        if target is None:
            continue
        own = len(targets) > 1 and len(names) == 1
        line, ink = (colours[names[0]],) * 2 if own else (FAINT, SOFT)
        words = f"target {target:g}" + f" of {names[0]}" * own
        panel.axhline(target, color=line, lw=1.6, ls=DOTTED, zorder=1)
        panel.annotate(  # below the line, where a run has begun long before: above it may be final evaluations
            words, (0, target), xycoords=("axes fraction", "data"), xytext=(6, -3),
            textcoords="offset points", ha="left", va="top", color=ink, size=10,
        )  # fmt: skip


def _draw_gaps(panel: "Axes", lines: Sequence[Line], axis: str) -> None:
    """Marks where a full disk left no metrics: the lines there only connect the two sides."""
    gaps = [gap[:2] if axis == "steps" else gap[2:] for line in lines for gap in line.curve.gaps]
    for number, (start, end) in enumerate(gaps):
        panel.axvspan(
            start, end, color=FAINT, alpha=0.25, lw=1, zorder=0, label="" if number else "metrics could not be written"
        )


def _draw_legend(figure: "Figure", panels: Iterable["Axes"], note: str) -> None:
    named: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    labels = list(named)
    widest = max(len(line) for label in labels for line in label.splitlines())
    columns = max(1, min(len(labels), 130 // (8 + widest)))  # 130 characters fit into the width
    legend = figure.legend(
        list(named.values()), labels, loc="outside lower center", ncols=columns, title=note or None, title_fontsize=9
    )  # fmt: skip
    legend.get_title().set_color(SOFT)


def _title(lines: Sequence[Line]) -> str:
    first = lines[0]
    if len(lines) == 1:
        seed = f"seed {first.seed}" if first.seed else ""
        return " · ".join(filter(None, (first.environment, f"preset {first.settings['preset']}", seed)))
    return first.environment if len({line.environment for line in lines}) == 1 else "mean return"
