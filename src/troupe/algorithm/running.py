"""Mean and variance of a stream of numbers, exact however it comes cut into batches."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


class Running:
    """Of each of `size` numbers apart, in double precision (Chan et al. 1979, eq. 2.1: pairwise updating)."""

    def __init__(self, size: int, device: torch.device | str = "cpu"):
        self.count = 0
        self._mean, self._squares = (torch.zeros(size, dtype=torch.float64, device=device) for _ in range(2))

    def update(self, batch: Float[Tensor, "N size"]) -> None:
        added = len(batch)
        if not added:
            return
        numbers = batch.double()
        mean = numbers.mean(0)
        off, total = mean - self._mean, self.count + added
        self._squares += (numbers - mean).square().sum(0) + off.square() * (self.count * added / total)
        self._mean += off * (added / total)
        self.count = total

    @property
    def mean(self) -> Float[Tensor, " size"]:
        return self._mean.float()

    @property
    def deviation(self) -> Float[Tensor, " size"]:
        """The root of the mean squared distance from the mean; 0 before there is a number."""
        return (self._squares / max(self.count, 1)).sqrt().float()

    def state(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "mean": self._mean.cpu().numpy().copy(),
            "squares": self._squares.cpu().numpy().copy(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.count = state["count"]
        self._mean.copy_(torch.from_numpy(np.asarray(state["mean"])))
        self._squares.copy_(torch.from_numpy(np.asarray(state["squares"])))
