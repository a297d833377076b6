"""What is known of the environment's units: running statistics of observed numbers and of returns.

They are sums, added up in one place as rollouts are learned from, each exactly once; so they do not depend on
how many actors there were or whose rollout came first.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from troupe.algorithm.normalization import LEAST_DEVIATION, Moments
from troupe.networks.actor_critic import ActorCritic
from troupe.networks.flat import FlatWeights
from troupe.runtime.shared import Block

_TRIES = 100  # to read what nobody is writing: one that was killed in the middle never ends


class Statistics:
    """Sums over observed numbers, a column for each, and in a last column over discounted sums of rewards.

    Each of `writers` has sums of its own, so that those in other processes need no lock; what is known is all of
    them together. Of the numbers it is written into the weights (algorithm/normalization.py).

    A writer says what it has begun and what it has ended: who finds that it was in the middle reads again.
    """

    def __init__(self, numbers: int, places: tuple[slice, slice] | None, writers: int = 1, *, shared: bool = False):
        self._numbers, self._places = numbers, places  # of mean and scale in the vector of weights
        counts: tuple[tuple[int, ...], Any] = ((writers,), np.int64)
        self._block = Block(
            {"sums": ((writers, 3, numbers + 1), np.float64), "begun": counts, "ended": counts}, shared=shared
        )
        self._attach()

    @classmethod
    def of(cls, flat: FlatWeights[ActorCritic], writers: int = 1, *, shared: bool = False) -> "Statistics":
        """For a network whose weights lie in a vector."""
        normalizer = flat.module.normalizer
        if normalizer is None:
            return cls(0, None, writers, shared=shared)
        return cls(
            normalizer.features, (flat.place(normalizer.mean), flat.place(normalizer.scale)), writers, shared=shared
        )

    def add(self, numbers: Float[Tensor, "N D"] | None, returns: Float[Tensor, " N"], writer: int = 0) -> None:
        sums = self._of_writers[writer]
        self._begun[writer] += 1
        if numbers is not None:
            sums.add(numbers, slice(0, self._numbers))
        sums.add(returns[:, None], slice(self._numbers, None))
        self._ended[writer] = self._begun[writer]

    def write_to(self, vector: Float[Tensor, " P"]) -> None:
        """Makes the weights normalise by what is known now."""
        if self._places is not None:
            known = self._all()
            mean, scale = self._places
            vector[mean] = known.mean()[:-1].to(vector)
            vector[scale] = (1 / known.deviation()[:-1].clamp(min=LEAST_DEVIATION)).to(vector)

    def go_back_to(self, vector: Float[Tensor, " P"]) -> None:
        """What is known of the numbers is what `vector` normalises by; it weighs as much as what was known before.

        Weights that went by it would be others with the next batch otherwise.
        """
        if self._places is not None:
            mean, scale = (vector[place].double().cpu() for place in self._places)
            count = self._all().sums[0, :-1]
            self._sums[:, :, :-1] = 0.0
            self._sums[0, :, :-1] = torch.stack([count, count * mean, count * (mean.square() + scale.pow(-2))])

    @property
    def deviation_of_returns(self) -> float:
        """1 until something is known."""
        return float(self._all().deviation()[-1].clamp(min=LEAST_DEVIATION))

    def state(self) -> dict[str, Tensor]:
        return {"statistics": self._all().sums}

    def load(self, state: Mapping[str, Tensor]) -> None:
        for each in self._of_writers:
            each.sums.zero_()
        self._of_writers[0].sums.copy_(state["statistics"])

    def _all(self) -> Moments:
        for _ in range(_TRIES):
            ended = self._ended.copy()
            together = Moments(self._sums.sum(0))
            if (self._begun == ended).all():
                break
        return together

    def _attach(self) -> None:
        self._sums = torch.from_numpy(self._block["sums"])
        self._begun, self._ended = self._block["begun"], self._block["ended"]
        self._of_writers = [Moments(sums) for sums in self._sums]

    def __getstate__(self) -> tuple[Any, ...]:
        return self._numbers, self._places, self._block

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._numbers, self._places, self._block = state
        self._attach()
