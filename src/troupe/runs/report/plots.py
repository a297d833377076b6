"""Pictures of runs: mean return against steps and against training seconds.

Matplotlib is imported only where something is drawn, and without pyplot: its windows and global state belong to the
user's program.
"""

import math
import os
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from troupe.config import UsageError
from troupe.runs.report.curves import TRAINING_RETURN, Points
from troupe.runs.report.labels import comparable, labels
from troupe.runs.report.lines import (
    WINDOW,
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
from troupe.runs.report.looks import COLOURS, SOFT, Look, looks_of, side_by_side, styles
from troupe.runs.report.statistics import FEWEST
from troupe.safe_files import output_file, writing
from troupe.text import by_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")
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


DOTTED = (0, (1, 3))  # for targets
NOTE_WIDTH = 165  # characters
LABEL_WIDTH = 54  # characters: two columns of such labels fit side by side
LEGEND_LINES, LINE_INCHES = 6, 0.2  # a longer legend makes the picture higher, and not the panels lower
NEAR = 0.01, 0.02  # of a panel's width and height: marks so close cover each other
PLACE_POINTS = 6  # by which those are moved apart
CONNECTOR: dict[str, Any] = {"linewidth": 0.8, "alpha": 0.7, "linestyle": (0, (2, 1))}
INK, FAINT = "#222222", "#8A8A8A"
EVALUATION: dict[str, Any] = {"marker": "D", "ls": "", "ms": 3.5, "mew": 0, "alpha": 0.4}
RESUMPTION: dict[str, Any] = {"marker": "o", "ls": "", "ms": 8, "mfc": "white", "mew": 1.8, "zorder": 5}
TRAINING = "training return (exploring actors)"
DOTS = f"{TRAINING}:\nmean of the episodes since the previous report"
NOTE = f"lines: {TRAINING}, smoothed: {WINDOW}"
EVALUATIONS = "evaluation of the newest weights"
REACHED, MISSED = ":\ntarget reached", ":\ntarget missed"
GREEDY_NOTE = "; evaluated greedily, the same weights usually score more"
MEAN_NOTE = "; of five runs and more their mean (thick; a finished run keeps its last value) and each (thin)"
MOVED_NOTE = "marks that would cover each other are moved apart sideways"
BAND = "95 % bootstrap interval of the mean over runs"
SEVERAL = "returns of different environments are not comparable"
Selection = Bool[np.ndarray, " n"]
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
        moved = False
        panels = figure.subplots(len(metrics), 2, sharey="row", squeeze=False)
        for row, (metric, its) in zip(panels, metrics.items(), strict=True):
            returns = metric == TRAINING_RETURN
            row[0].set(xlabel="environment steps", ylabel="mean return of episodes" if returns else metric)
            row[1].set(xlabel="training seconds")
            for panel, (axis, formatter) in zip(row, formatters.items(), strict=True):
                if len(lines) == 1:
                    _draw_run(panel, all_lines(its)[0], axis, returns)
                else:
                    moved |= _draw_groups(panel, its, axis)
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
        notes = *_notes(groups, TRAINING_RETURN in metrics, moved=moved), note
        _draw_legend(figure, panels[:, 0], "\n".join(textwrap.fill(each, NOTE_WIDTH) for each in notes if each))
        figure.suptitle(title or _title(lines), x=0.01, ha="left", weight="bold", size=14)
        figure.savefig(file, format=file.suffix[1:].lower())


def _notes(groups: Groups, returns: bool, *, moved: bool) -> Iterator[str]:
    lines = all_lines(groups)
    if len(lines) > 1:
        means = MEAN_NOTE * any(len(group) >= FEWEST for group in groups.values())
        greedy = GREEDY_NOTE * (returns and all(line.greedy for line in lines))
        yield (NOTE if returns else f"lines: {WINDOW}") + means + greedy
    if moved:
        yield MOVED_NOTE
    if not returns:
        return
    if len({line.environment for line in lines}) > 1:
        yield SEVERAL
    elif len(targets_of(groups)) > 1:
        yield f"targets differ: {by_value(target_of_each(groups))}"


def _draw_run(panel: "Axes", line: Line, axis: str, returns: bool) -> None:
    x, curve = line.by(axis), line.curve
    dots, smooth = (DOTS, f"{TRAINING}, smoothed:") if returns else ("each report", "smoothed:")
    smooth += f"\n{WINDOW} ({line.window_steps:,} steps)"
    panel.plot(x, curve.returns, ".", color=COLOURS[0], alpha=0.4, ms=6, mew=0, label=dots)
    panel.plot(x, line.smooth, color=COLOURS[0], lw=2.2, label=smooth)
    for points, label, mark, colour, size, order in (  # the smaller a mark, the further in front
        (curve.evaluations, f"{EVALUATIONS} ({_actions([line])})", "D", COLOURS[1], 5, 6),
        (curve.collapses, "collapse", "X", INK, 15, 5),
    ):
        if len(points.steps):
            x = along(points, axis)
            panel.plot(x, points.returns, mark, color=colour, ms=size, mec="white", label=label, zorder=order)
    for verdict, which in _by_verdict(line).items():
        x, y = along(curve.final, axis)[which], curve.final.returns[which]
        panel.plot(x, y, zorder=4, label=_final_words(line, verdict, which), **_star(COLOURS[2], verdict, 26))
    for number, at in enumerate(curve.resumptions[:, 0 if axis == "steps" else 1]):
        panel.axvline(at, color=FAINT, lw=1, ls="--", zorder=1, label="" if number else "where the run was resumed")


def _by_verdict(line: Line) -> dict[str, Selection]:
    """Which of the final evaluations reached the target, by what the legend says of them."""
    returns = line.curve.final.returns
    if line.target is None:
        verdicts = {"": np.full(len(returns), fill_value=True)}
    else:
        verdicts = {REACHED: returns >= line.target, MISSED: returns < line.target}
    return {verdict: which for verdict, which in verdicts.items() if which.any()}


def _star(colour: str, verdict: str, size: float) -> dict[str, Any]:
    """A star, hollow where the target was missed."""
    inside, edge, width = ("white", colour, size / 12) if verdict == MISSED else (colour, "white", 0.6)
    return {"marker": "*", "ls": "", "mfc": inside, "mec": edge, "mew": width, "ms": size}


def _actions(lines: Iterable[Line]) -> str:
    """How those of evaluations are chosen."""
    return " or ".join(dict.fromkeys("greedy" if line.greedy else "sampled actions" for line in lines))


def _final_words(line: Line, verdict: str, which: Selection) -> str:
    """Which weights were the best, when training ended and after each resume: 'of step 8,075, evaluated at 23,361'."""
    final = line.curve.final
    of_steps, steps = final.weights_steps[which].tolist(), final.steps[which].tolist()
    pairs = list(zip(of_steps, steps, strict=True))[-3:]
    words = [f"weights of step {of:,}" + f", evaluated at step {at:,}" * (of != at) for of, at in pairs if of >= 0]
    several = "s" * (len(steps) > 1)
    return "\n".join([f"final evaluation{several} of the best weights ({_actions([line])}){verdict}", *words])


def _draw_groups(panel: "Axes", groups: Groups, axis: str) -> bool:
    """Whether marks had to be moved."""
    looks = looks_of(groups)
    groups = {name: [line for line in lines if len(line.smooth)] for name, lines in groups.items()}
    drawn, column = all_lines(groups), 0 if axis == "steps" else 1
    logarithmic = differ_much([lines for lines in groups.values() if lines], axis)
    panel.set_xscale("log" if logarithmic else "linear")
    for lines, look in zip(groups.values(), styles(groups), strict=True):
        averaged = len(lines) >= FEWEST
        style: dict[str, Any] = {"lw": 0.8, "alpha": 0.3} if averaged else {"lw": 1.8}
        for line in lines:
            x, own, seen = line.by(axis), looks.of_runs[line.path], line.curve.evaluations
            panel.plot(x, line.smooth, ls=own.dashes, color=own.colour, **style)
            panel.plot(along(seen, axis), seen.returns, color=own.colour, **EVALUATION)
            resumed = line.curve.resumptions[:, column]
            panel.plot(resumed, np.interp(resumed, x, line.smooth), mec=own.colour, **RESUMPTION)
        if averaged:
            _draw_mean(panel, lines, axis, np.geomspace if logarithmic else np.linspace, look)
    for name, look in looks.legend:
        panel.plot([], ls=look.dashes, color=look.colour, lw=2.2, label=name)
    if any(len(lines) >= FEWEST for lines in groups.values()):
        panel.plot([], color=SOFT, lw=0.8, alpha=0.6, label="each run")
        panel.fill_between([], [], color=SOFT, alpha=0.25, lw=0, label=BAND)
    covered = {
        line: int(not len(line.curve.final.steps)) for line in drawn
    }  # the last of an unfinished run, by its mark
    if any(len(line.curve.evaluations.steps) > covered[line] for line in drawn):
        panel.plot([], color=SOFT, label=f"{EVALUATIONS} ({_actions(drawn)})", **EVALUATION)
    if any(len(line.curve.resumptions) for line in drawn):
        panel.plot([], mec=SOFT, label="where a run was resumed", **RESUMPTION)
    return _draw_ends(panel, {line: looks.of_runs[line.path].colour for line in drawn}, axis)


def _draw_ends(panel: "Axes", colours: Mapping[Line, str], axis: str) -> bool:
    """The evaluation by which each run is compared with others, and what leads to it. Whether some had to be moved."""
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D
    from matplotlib.transforms import ScaledTranslation

    actions = _actions(colours)
    ends = [(line, colour, end) for line, colour in colours.items() if (end := _end_of(line, actions))]
    if not ends:
        return False
    at = np.array([(along(end.points, axis)[-1], end.points.returns[-1]) for _, _, end in ends])
    panel.update_datalim(at)
    panel.autoscale_view()
    places = side_by_side((panel.transData - panel.transAxes).transform(at), NEAR)
    for (line, colour, end), point, place in zip(ends, at, places, strict=True):
        lead = [(line.by(axis)[-1], line.smooth[-1]), point]
        panel.add_collection(LineCollection([lead], colors=colour, **CONNECTOR), autolim=False)
        aside = panel.transData + ScaledTranslation(place * PLACE_POINTS / 72, 0, panel.figure.dpi_scale_trans)
        style = end.style(colour) | {"transform": aside, "clip_on": False, "alpha": 0.8, "zorder": 4}
        panel.add_artist(Line2D(*point[:, None], **style))
    for words, of in sorted({end.words: end.style for _, _, end in ends}.items()):
        panel.plot([], label=words, **of(SOFT))
    panel.plot([], color=SOFT, **CONNECTOR, label="from a run's line to its evaluation")
    return any(places)


class _End(NamedTuple):
    points: Points  # of which the last counts
    words: str
    style: Callable[[str], dict[str, Any]]  # of a colour


def _end_of(line: Line, actions: str) -> _End | None:
    """The final evaluation, or else the last, if there is one."""
    final, last = line.curve.final, line.curve.evaluations
    if len(final.steps):
        verdict = next(verdict for verdict, which in _by_verdict(line).items() if which[-1])
        words = f"final evaluation of a run's best weights ({actions}){verdict}"
        return _End(final, words, lambda colour: _star(colour, verdict, 12))
    return _End(last, f"last evaluation of an unfinished run ({actions})", _diamond) if len(last.steps) else None


def _diamond(colour: str) -> dict[str, Any]:
    return {"marker": "D", "ls": "", "color": colour, "mec": "white", "ms": 6, "mew": 0.6}


def _draw_mean(panel: "Axes", lines: Sequence[Line], axis: str, spaced: Callable[..., Values], look: Look) -> None:
    grid = spaced(min(line.by(axis)[0] for line in lines), max(line.by(axis)[-1] for line in lines), GRID_POINTS)
    # A finished run keeps its last return: the mean over the others would fall whenever a good run reaches its
    # target and ends.
    values = np.stack([np.interp(grid, line.by(axis), line.smooth) for line in lines])
    panel.fill_between(grid, *bootstrap_band(values), color=look.colour, alpha=0.2, lw=0)
    panel.plot(grid, values.mean(axis=0), ls=look.dashes, color=look.colour, lw=2.2)


def _draw_targets(panel: "Axes", groups: Groups) -> None:
    """Each target, with the name of the group that alone has it; none where environments differ."""
    targets = targets_of(groups)
    if len({line.environment for line in all_lines(groups)}) > 1:
        return
    colours = dict(zip(groups, (look.colour for look in styles(groups)), strict=True))
    for target, names in targets.items():
        if target is None:
            continue
        own = len(targets) > 1 and len(names) == 1 < len(groups)
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
            named.setdefault("\n".join(textwrap.fill(line, LABEL_WIDTH) for line in label.splitlines()), handle)
    labels = list(named)
    widest = max(len(line) for label in labels for line in label.splitlines())
    columns = max(1, min(len(labels), 130 // (8 + widest)))  # 130 characters fit into the width
    legend = figure.legend(
        list(named.values()), labels, loc="outside lower center", ncols=columns, title=note or None, title_fontsize=9
    )  # fmt: skip
    legend.get_title().set_color(SOFT)
    high = len(note.splitlines()) + math.ceil(sum(len(label.splitlines()) for label in labels) / columns)
    figure.set_figheight(figure.get_figheight() + LINE_INCHES * max(0, high - LEGEND_LINES))


def _title(lines: Sequence[Line]) -> str:
    first = lines[0]
    if len(lines) == 1:
        seed = f"seed {first.seed}" if first.seed else ""
        return " · ".join(filter(None, (first.environment, f"preset {first.settings['preset']}", seed)))
    return first.environment if len({line.environment for line in lines}) == 1 else "mean return"
