"""What a picture of runs shows: the smoothed line of each run, runs in groups, and what groups have in common."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from troupe.config import UsageError, did_you_mean
from troupe.runs.report.curves import TRAINING_RETURN, Curve, Points, metrics_in, read_curve
from troupe.runs.report.labels import Settings, read_measured, read_settings, read_target

Values = Float[np.ndarray, " n"]

RESAMPLES = 2000  # of the runs, for the bootstrap band
SMOOTHING = 0.05  # of a run's steps, to either side
WINDOW = f"moving mean over {200 * SMOOTHING:g} % of the run"  # in the words of a legend
LEAST_SMOOTHING = 0.01  # at the end: the last report may be of a single episode
TOO_SHORT = 0.1  # of the longest group: if the shortest is shorter than this, the axis is logarithmic


@dataclass(frozen=True, eq=False)
class Line:
    """One run, as it is drawn."""

    path: Path
    settings: Settings
    measured: Sequence[str]  # of the settings
    curve: Curve
    smooth: Values  # of the training return
    target: float | None

    @property
    def environment(self) -> str:
        return str(self.settings.get("env.id", ""))

    @property
    def seed(self) -> str:
        return str(self.settings.get("seed", ""))

    @property
    def greedy(self) -> bool:
        """Whether its evaluations are."""
        return bool(self.settings.get("evaluation.greedy", True))

    @property
    def window_steps(self) -> int:
        """Over how many steps the line is smoothed."""
        return round(2 * SMOOTHING * float(np.ptp(self.curve.steps))) if len(self.curve.steps) else 0

    def by(self, axis: str) -> Values:
        return along(self.curve, axis)


def line_of(run: Path, metric: str = TRAINING_RETURN) -> Line:
    """Of another metric it may be empty."""
    curve = read_curve(run, metric)
    if metric == TRAINING_RETURN and not len(curve.steps):
        raise UsageError(f"{run} has nothing to plot yet: its metrics.jsonl reports no finished episode")
    # Weighted by steps: by episodes, the many short ones of an untrained agent would pull the line down.
    smooth = smoothed(curve.steps, curve.returns, np.diff(curve.steps, prepend=0).clip(1))
    settings = {"preset": run.name} | read_settings(run)
    return Line(run, settings, read_measured(run), curve, smooth, read_target(run, settings))


def lines_of(runs: Sequence[Path], metric: str) -> list[Line]:
    """Raises UsageError, with the nearest name, where no run has the metric."""
    lines = [line_of(run, metric) for run in runs]
    if not any(len(line.smooth) for line in lines):
        known = set().union(*map(metrics_in, runs))
        without = "no report has a value of it" if metric in known else f"no metric{did_you_mean(metric, known)}"
        raise UsageError(f"'{metric}': {without} (docs/metrics.md names them)")
    return lines


def along(points: Curve | Points, axis: str) -> Values:
    return points.steps if axis == "steps" else points.seconds


def smoothed(x: Values, y: Values, weight: Values) -> Values:
    """At each x, the weighted mean of the y whose x lies within SMOOTHING of the whole range.

    Towards the ends the window shrinks on both sides: a one-sided mean would start above the first returns.
    """
    if not len(x):
        return y
    whole = x[-1] - x[0]
    reach = np.minimum(x - x[0], np.maximum(x[-1] - x, LEAST_SMOOTHING * whole)).clip(max=SMOOTHING * whole)
    first = np.searchsorted(x, x - reach, side="left")
    last = np.searchsorted(x, x + reach, side="right")
    total = np.concatenate([[0.0], np.cumsum(weight * y)])
    weights = np.concatenate([[0.0], np.cumsum(weight)])
    smooth: Values = (total[last] - total[first]) / (weights[last] - weights[first])
    return smooth


Groups = Mapping[str, Sequence[Line]]  # runs by name


def grouped(lines: Sequence[Line], names: Sequence[str]) -> Groups:
    groups: dict[str, list[Line]] = {}
    for name, line in zip(names, lines, strict=True):
        groups.setdefault(name, []).append(line)
    return groups


def all_lines(groups: Groups) -> list[Line]:
    return [line for lines in groups.values() for line in lines]


def bootstrap_band(values: Float[np.ndarray, "runs n"]) -> tuple[Values, Values]:
    """95 % percentile bootstrap of the mean over runs."""
    count = len(values)
    weights = np.random.default_rng(0).multinomial(count, [1 / count] * count, size=RESAMPLES) / count
    low, high = np.percentile(weights @ values, [2.5, 97.5], axis=0)
    return low, high


def usual_target(targets: Iterable[float | None]) -> float | None:
    """Of the runs of one group, of which a resumed one may have another target, or none."""
    counted = Counter(targets)
    return max(counted, key=lambda target: (counted[target], target is not None))


def targets_of(groups: Groups) -> dict[float | None, list[str]]:
    """The groups that have each target; None: those without one."""
    targets: dict[float | None, list[str]] = {}
    for name, lines in groups.items():
        for target in dict.fromkeys(line.target for line in lines):
            targets.setdefault(target, []).append(name)
    return targets


def target_of_each(groups: Groups) -> Iterator[tuple[str, str]]:
    """The target, in words, of each group and of each run that has another than its group."""
    for name, lines in groups.items():
        usual = usual_target(line.target for line in lines)
        for line in lines:
            whose = name if line.target == usual else f"{name}, seed {line.seed}"
            yield whose, "none" if line.target is None else f"{line.target:g}"


def differ_much(groups: Iterable[Sequence[Line]], axis: str) -> bool:
    """Whether the shortest group would be squeezed into a corner by the longest."""
    ends = [(min(line.by(axis)[0] for line in lines), max(line.by(axis)[-1] for line in lines)) for lines in groups]
    starts, lengths = zip(*ends, strict=True)
    return bool(min(starts) > 0 and min(lengths) < TOO_SHORT * max(lengths))
