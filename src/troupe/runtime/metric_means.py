"""Means of metrics over all learners, epochs and minibatches since the last report, without waiting for a GPU."""

import threading
from collections.abc import Mapping

import torch
from torch import Tensor

from troupe.algorithm.losses import explained_variance

Totals = dict[str, list[float]]  # by metric: its weighted sum, one number or several, and last the sum of weights
_MOST_PENDING = 512


class MetricMeans:
    """Weighted means of metrics; any thread may add. Tensors are kept as they are until somebody asks."""

    def __init__(self) -> None:
        self._pending: list[tuple[Mapping[str, Tensor | float], float]] = []
        self._totals: Totals = {}
        self._lock = threading.Lock()

    def add(self, metrics: Mapping[str, Tensor | float], weight: float) -> None:
        """`metrics` are means over `weight` rows (or updates, or steps); those over 0 rows are ignored."""
        if not weight:
            return
        with self._lock:
            self._pending.append((metrics, weight))
            if len(self._pending) == _MOST_PENDING:
                self._sum_up()

    def merge(self, totals: Totals) -> None:
        """Adds the result of another's `take`."""
        with self._lock:
            self._merge(totals)

    def take(self) -> Totals:
        """All since the last call."""
        with self._lock:
            self._sum_up()
            taken, self._totals = self._totals, {}
            return taken

    def _sum_up(self) -> None:
        pending, self._pending = self._pending, []
        for name in {name: None for metrics, _ in pending for name in metrics}:
            values, weights = zip(*((each[name], weight) for each, weight in pending if name in each), strict=True)
            tensors = [value for value in values if isinstance(value, Tensor)]
            stacked = torch.stack(tensors) if len(tensors) == len(values) else torch.tensor(values, dtype=torch.float64)
            rows = stacked.double().reshape(len(values), -1)
            weight = torch.tensor(weights, dtype=torch.float64, device=rows.device)
            self._merge({name: [*(weight @ rows).tolist(), sum(weights)]})

    def _merge(self, totals: Totals) -> None:
        for name, numbers in totals.items():
            before = self._totals.get(name, [0.0] * len(numbers))
            self._totals[name] = [one + other for one, other in zip(before, numbers, strict=True)]


def means_of(totals: Totals) -> dict[str, float]:
    """The means, as a row of metrics has them: `explained_variance` is that of all rows together."""
    means = {name: [number / weight for number in numbers] for name, (*numbers, weight) in totals.items()}
    moments = means.pop("value_moments", None)
    flat = {name: value for name, (value, *_) in means.items()}
    return flat | ({"explained_variance": explained_variance(moments)} if moments else {})
