"""The curves of a run: its returns by steps and by training seconds, read from its metrics.jsonl."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from troupe.runs.store.metrics import read_log


@dataclass(frozen=True, eq=False)
class Points:
    """Mean returns, each after so many environment steps and so many seconds of training.

    `weights_steps` is the step of the evaluated weights; -1 in runs of earlier versions, which do not record it.
    """

    steps: Int[np.ndarray, " n"]
    seconds: Float[np.ndarray, " n"]
    returns: Float[np.ndarray, " n"]
    weights_steps: Int[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class Curve:
    """The training return (of exploring actors) by report, and beside it the evaluation return.

    `returns[i]` is the mean of the episodes that ended since the report before; reports in which none ended are left
    out. `episodes` counts those of the run so far. `evaluations` are of the newest weights, while training and at its
    end; `final` is of the best weights, once when training ended and again after each resume. `collapses` are the
    evaluations that showed one.
    """

    steps: Int[np.ndarray, " n"]
    seconds: Float[np.ndarray, " n"]
    returns: Float[np.ndarray, " n"]
    episodes: Int[np.ndarray, " n"]
    evaluations: Points
    final: Points
    collapses: Points
    gaps: Float[np.ndarray, "g 4"]  # where metrics could not be written: from and to, in steps and in seconds
    resumptions: Float[np.ndarray, "r 2"]  # where the run was resumed, in steps and in seconds


TRAINING_RETURN = "return_mean"


def read_curve(run: str | os.PathLike[str], metric: str = TRAINING_RETURN) -> Curve:
    """Steps that a resumed run repeated are in it once. Another `metric` of reports ("shares.actor.env") has no
    evaluations beside it. Raises UsageError if there is no metrics.jsonl."""
    rows = read_rows(run)
    scores = [row for row in rows if row.get("kind") == "evaluation" and metric == TRAINING_RETURN]

    def of(kind: str) -> list[Mapping[str, Any]]:
        return [row for row in rows if row.get("kind") == kind]

    reports = [dict(flat(row)) for row in of("report")] if "." in metric else of("report")
    steps, seconds, returns, episodes = _table(reports, "steps", "seconds", metric, "episodes").T
    return Curve(
        steps.astype(np.int64), seconds, returns, episodes.astype(np.int64),
        _points([row for row in scores if row.get("purpose") != "final"]),
        _points([row for row in scores if row.get("purpose") == "final"]),
        _points(of("collapse") if metric == TRAINING_RETURN else []),
        _table(of("gap"), "from_steps", "steps", "from_seconds", "seconds"),
        _table(of("resume"), "steps", "seconds"),
    )  # fmt: skip


def metrics_in(run: str | os.PathLike[str]) -> set[str]:
    """The names of the numbers in its reports."""
    values = (item for row in read_log(run) if row.get("kind") == "report" for item in flat(row))
    return {name for name, value in values if value is None or isinstance(value, int | float)}


def flat(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a row by dotted name."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def read_rows(run: str | os.PathLike[str]) -> list[Mapping[str, Any]]:
    """The rows of metrics.jsonl. What a resumed run repeated is in it once. Raises UsageError where there is none."""
    return _in_order(read_log(run))


def rows_until(run: str | os.PathLike[str], steps: int) -> list[Mapping[str, Any]]:
    """The rows that a run resumed from `steps` continues from."""
    return [row for row in read_rows(run) if (row.get("steps") or 0) <= steps]


def only_return(run: str | os.PathLike[str], episodes: int) -> float | None:
    """The return of every training and evaluation episode so far, if all had the same; None also where fewer training
    episodes than `episodes` have ended."""
    rows = [row for row in read_log(run) if row.get("kind") in ("report", "evaluation")]
    ended = max((row.get("episodes") or 0 for row in rows if row["kind"] == "report"), default=0)
    bounds = {row.get(name) for row in rows for name in ("return_min", "return_max", "min", "max")} - {None}
    return bounds.pop() if len(bounds) == 1 and ended >= episodes else None


def _in_order(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Without what a resumed run repeated: rows with more steps than a later report.

    Only reports show a resumption; an evaluation may be of weights older than the report before it.
    """
    kept: list[Mapping[str, Any]] = []
    reached = 0
    for row in rows:
        if row.get("kind") == "report":
            steps = reached if row.get("steps") is None else row["steps"]
            if steps < reached:
                kept = [earlier for earlier in kept if (earlier.get("steps") or 0) <= steps]
            reached = steps
        kept.append(row)
    return kept


def _points(rows: Sequence[Mapping[str, Any]]) -> Points:
    known = [{"weights_steps": -1, **row} for row in rows]
    steps, seconds, means, weights_steps = _table(known, "steps", "seconds", "mean", "weights_steps").T
    return Points(steps.astype(np.int64), seconds, means, weights_steps.astype(np.int64))


def _table(rows: Sequence[Mapping[str, Any]], *names: str) -> Float[np.ndarray, "n names"]:
    """The named numbers of the rows that have them all and finite."""
    values = ([row.get(name) for name in names] for row in rows)
    table = [[each if isinstance(each, int | float) else None for each in row] for row in values]
    numbers = np.array(table, dtype=float).reshape(-1, len(names))  # None becomes NaN
    finite: Float[np.ndarray, "n names"] = numbers[np.isfinite(numbers).all(axis=1)]
    return finite
