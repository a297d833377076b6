"""Statistics of runs with several seeds, as Agarwal et al. (2021) recommend for few of them.

Scores are [runs, tasks]; a comparison in one environment has one task. Intervals are those of the stratified
percentile bootstrap: the runs of every task are resampled by themselves.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from troupe.text import format_return, table

Scores = Float[np.ndarray, "runs tasks"]
Values = Float[np.ndarray, " resamples"]
FEWEST = 5  # runs for an interval: the bootstrap interval of three is merely their minimum and maximum
_RESAMPLES = 2_000
NOTE = (
    "IQM: interquartile mean of the final evaluations, the mean of the middle half of the runs. P: probability that a "
    "run has a higher final evaluation than one of the first preset. Intervals: bootstrap over runs (Agarwal et al. "
    f"2021); none below {FEWEST} runs, where it would be little more than their minimum and maximum."
)


def interquartile_mean(scores: Float[np.ndarray, "*batch runs tasks"]) -> Float[np.ndarray, "*batch"]:
    """The mean of the middle half of all runs of all tasks: a quarter, rounded down, is left out at each end."""
    ordered = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    cut = ordered.shape[-1] // 4
    return np.asarray(ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1))


def probability_of_improvement(
    ours: Float[np.ndarray, "*batch runs tasks"], theirs: Float[np.ndarray, "*batch others tasks"]
) -> Float[np.ndarray, "*batch"]:
    """The probability that a run of ours scores higher than one of theirs in the same task (ties count half); mean over
    tasks."""
    difference = ours[..., :, None, :] - theirs[..., None, :, :]
    return np.asarray((0.5 + 0.5 * np.sign(difference)).mean(axis=(-3, -2, -1)))


def interval(statistic: Callable[..., np.ndarray], *scores: Scores, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of `statistic(*scores)`."""
    rng = np.random.default_rng(seed)
    low, high = np.percentile(statistic(*(_resampled(each, rng) for each in scores)), [2.5, 97.5])
    return float(low), float(high)


def _resampled(scores: Scores, rng: np.random.Generator) -> Float[np.ndarray, "resamples runs tasks"]:
    chosen = rng.integers(len(scores), size=(_RESAMPLES, *scores.shape))
    return scores[chosen, np.arange(scores.shape[1])]


def of_variants(returns: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """For each variant in one environment: its runs, their interquartile mean, and the probability of improvement on
    the first one; each with its interval, where there are FEWEST runs and more."""
    scores = {label: np.array(values, float)[:, None] for label, values in returns.items() if len(values)}
    found: dict[str, Any] = {}
    for label, ours in scores.items():
        first = next(iter(scores.values()))
        found[label] = {"runs": len(ours), "iqm": float(interquartile_mean(ours)), "iqm_interval": None}
        if len(ours) >= FEWEST:
            found[label]["iqm_interval"] = interval(interquartile_mean, ours)
        if ours is not first:
            found[label]["improvement"] = float(probability_of_improvement(ours, first))
            if min(len(ours), len(first)) >= FEWEST:
                found[label]["improvement_interval"] = interval(probability_of_improvement, ours, first)
    return found


def _cells(figures: Mapping[str, Any]) -> list[list[str]]:
    first = next(iter(figures), "")
    rows = [["preset", "runs", "IQM", "95 % interval", f"P(better than {first})", "95 % interval"]]
    for label, each in figures.items():
        iqm, better, runs = each["iqm_interval"], each.get("improvement_interval"), each["runs"]
        fewer = min(runs, figures[first]["runs"])
        rows.append([
            label, str(runs), format_return(each["iqm"]),
            f"{format_return(iqm[0])} to {format_return(iqm[1])}" if iqm else f"n = {runs}: none",
            f"{each['improvement']:.2f}" if "improvement" in each else "-",
            f"{better[0]:.2f} to {better[1]:.2f}" if better else f"n = {fewer}: none" if "improvement" in each else "-",
        ])  # fmt: skip
    return rows


def markdown(figures: Mapping[str, Any]) -> list[str]:
    """A table in Markdown, aligned so that it reads as well on a terminal."""
    return markdown_table(_cells(figures))


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, numbers to the right."""
    head, *lines = (f"| {line} |" for line in table(rows, "<" + ">" * (len(rows[0]) - 1), " | "))
    first, *others = head.strip("|").split("|")
    rule = [f" :{'-' * (len(first) - 3)} ", *(f" {'-' * (len(cell) - 3)}: " for cell in others)]
    return [head, f"|{'|'.join(rule)}|", *lines]


def latex(figures: Mapping[str, Any]) -> str:
    """The same as a `tabular`, which needs no package."""
    rows = [[_escaped(cell) for cell in row] for row in _cells(figures)]
    lines = [" & ".join(row) + r" \\" for row in rows]
    columns = "l" + "r" * (len(rows[0]) - 1)
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\hline",
            lines[0],
            r"\hline",
            *lines[1:],
            r"\hline",
            r"\end{tabular}",
            "",
        ]
    )


def _escaped(cell: str) -> str:
    for letter in "&%$#_{}":
        cell = cell.replace(letter, f"\\{letter}")
    return cell
