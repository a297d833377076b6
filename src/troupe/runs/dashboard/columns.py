"""Columns of a run in few points, at multiples of a power of two: those of several runs fall on the same places."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from troupe.runs.report.lines import bootstrap_band

Values = Float[np.ndarray, " n"]
Table = Float[np.ndarray, "n columns"]

POINTS = 256  # at most, from 0 to the end of a run
_DIGITS = 5


def spacing(end: float) -> float:
    """The power of two that divides 0 to `end` into POINTS parts at most, and into more than half of them."""
    return 2.0 ** math.ceil(math.log2(max(end, 1e-6) / POINTS))


def thinned(x: Values, table: Table) -> tuple[Values, Table, Table, Table]:
    """The middles of the parts of x, which rises, and of each column the mean, lowest and highest value in each part;
    NaN, which stands for no value, where there is none."""
    width = spacing(x[-1])
    part = np.floor(x / width)
    first = np.flatnonzero(np.diff(part, prepend=-1))
    known = np.isfinite(table)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.add.reduceat(np.where(known, table, 0.0), first) / np.add.reduceat(known, first, dtype=float)
    low, high = (reduce.reduceat(table, first) for reduce in (np.fmin, np.fmax))
    return (part[first] + 0.5) * width, mean, low, high


def mean_band(lines: Sequence[tuple[Values, Values]]) -> dict[str, Any]:
    """Of a group of lines (x, y): x, their mean, and its 95 % bootstrap interval. A line keeps its last value."""
    width = 2 * spacing(max(x[-1] for x, _ in lines))
    parts = range(int(min(x[0] for x, _ in lines) / width), int(max(x[-1] for x, _ in lines) / width) + 1)
    grid = (np.array(parts) + 0.5) * width
    values = np.stack([np.interp(grid, x, y) for x, y in lines])
    low, high = bootstrap_band(values)
    return as_lists({"x": grid, "mean": values.mean(axis=0), "low": low, "high": high})


def as_lists(columns: Mapping[str, Values]) -> dict[str, list[float | None]]:
    """For JSON, in five digits; null stands for no value."""
    return {name: _rounded(values) for name, values in columns.items()}


def _rounded(values: Values) -> list[float | None]:
    if not np.isfinite(values).any():
        return []  # of a column without values
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        size = np.where(np.isfinite(values) & (values != 0), np.floor(np.log10(np.abs(values))), 0.0)
        scale = 10.0 ** (_DIGITS - 1 - size)
        short = np.where(np.isfinite(scale) & (scale > 0), np.round(values * scale) / scale, values)
    return [value if math.isfinite(value) else None for value in short.tolist()]
