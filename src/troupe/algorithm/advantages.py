"""Advantages with mean 0 and standard deviation 1: of one minibatch, or by moving averages over many."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def masked_mean(
    x: Float[Tensor, "*shape"], valid: Bool[Tensor, "*shape"], count: Tensor | None = None
) -> Float[Tensor, ""]:
    """Mean over the valid rows; no rows give 0. A NaN elsewhere changes no mean, but may a gradient.

    `count` is the number of valid rows, at least 1, where it is known already.
    """
    return x.where(valid, 0.0).sum() / (valid.sum().clamp(min=1) if count is None else count)


def normalize(advantage: Float[Tensor, "T B"], valid: Bool[Tensor, "T B"]) -> Float[Tensor, "T B"]:
    """Advantages with mean 0 and standard deviation 1 over the valid rows; constant ones become 0, not NaN."""
    count = valid.sum().clamp(min=1)
    centred = advantage - masked_mean(advantage, valid, count)
    centred = centred - masked_mean(centred, valid, count)  # what rounding left of a large mean
    std = masked_mean(centred.square(), valid, count).sqrt()
    return centred / (std + 1e-8)


class AdvantageEMA(NamedTuple):
    """Exponential moving averages, over minibatches, of an advantage's mean and mean square.

    A small minibatch of a game that is seldom decided may hold nothing but noise. Divided by its own standard
    deviation that noise would be as large as what was won or lost elsewhere. `weight` corrects for the zeros at the
    beginning, as in Adam. A value, never changed: `normalize` returns the next one. All are float64.
    """

    decay: float
    mean: Float[Tensor, ""]
    mean_square: Float[Tensor, ""]
    weight: Float[Tensor, ""]

    @classmethod
    def start(cls, decay: float, device: torch.device | None = None) -> "AdvantageEMA":
        return cls(decay, *torch.zeros(3, dtype=torch.float64, device=device))

    def normalize(
        self, advantage: Float[Tensor, "T B"], valid: Bool[Tensor, "T B"]
    ) -> tuple[Float[Tensor, "T B"], "AdvantageEMA"]:
        """The advantages, normalised by averages that include them, and these averages. Advantages that are not finite
        and minibatches without a valid row leave the averages as they are."""
        new = AdvantageEMA(
            self.decay,
            self._averaged(self.mean, masked_mean(advantage, valid)),
            self._averaged(self.mean_square, masked_mean(advantage.square(), valid)),
            self.decay * self.weight + 1 - self.decay,
        )
        usable = valid.any() & new.mean_square.isfinite()
        new = AdvantageEMA(self.decay, *(now.where(usable, old) for now, old in zip(new[1:], self[1:], strict=True)))
        weight = new.weight.clamp(min=1e-8)
        mean, square = new.mean / weight, new.mean_square / weight
        std = (square - mean.square()).clamp(min=0.0).sqrt() + 1e-8
        return (advantage - mean) / std, new

    def _averaged(self, old: Tensor, now: Tensor) -> Float[Tensor, ""]:
        return self.decay * old + (1 - self.decay) * now.double()
