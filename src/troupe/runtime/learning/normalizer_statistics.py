"""Running statistics of numeric observations and of returns, by which observations and rewards are normalised.

Learners update them once for each rollout that they learn from; so they do not depend on the number of actors or,
except for rounding, on the order of rollouts.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from troupe.algorithm.normalization import RunningMoments, least_std
from troupe.networks.actor_critic import ActorCritic
from troupe.networks.flat import FlatWeights
from troupe.runtime.data.shared_memory import Block

Gather = Callable[[Float[Tensor, "W 3 D"]], None]  # fetches the moments of writers in other processes
_TRIES = 100  # to read between two updates: a writer that is killed in the middle never completes its own


class NormalizerStatistics:
    """Moments of numeric observations, one column for each number, and of discounted sums of rewards, the last column.

    Each of `writers` has its own moments, so that writers in other processes need no lock; the statistics are those of
    all merged. Those of observations are written into the weights (algorithm/normalization.py).

    Writers count the updates that they have begun and ended: a reader that finds them unequal reads again.
    """

    def __init__(
        self,
        numbers: int,
        slices: Sequence[slice] = (),
        writers: int = 1,
        *,
        shared: bool = False,
        gather: Gather | None = None,
    ):
        """`slices` are those of the normaliser's parameters in the vector of weights: mean, scale and, if it is exact,
        the mean's rounding error in float32."""
        self._numbers, self._slices, self._gather = numbers, slices, gather
        counts: tuple[tuple[int, ...], Any] = ((writers,), np.int64)
        self._block = Block(
            {"moments": ((writers, 3, numbers + 1), np.float64), "begun": counts, "ended": counts}, shared=shared
        )
        self._attach()

    @classmethod
    def of(
        cls,
        flat: FlatWeights[ActorCritic],
        writers: int = 1,
        *,
        shared: bool = False,
        gather: Gather | None = None,
    ) -> "NormalizerStatistics":
        """For a network whose weights are a vector."""
        normalizer = flat.module.normalizer
        if normalizer is None:
            return cls(0, (), writers, shared=shared, gather=gather)
        slices = [flat.slice_of(parameter) for parameter in normalizer.parameters()]
        return cls(normalizer.features, slices, writers, shared=shared, gather=gather)

    def add(self, numbers: Float[Tensor, "N D"] | None, returns: Float[Tensor, " N"], writer: int = 0) -> None:
        moments = self._of_writers[writer]
        self._begun[writer] += 1
        if numbers is not None:
            moments.add(numbers, slice(0, self._numbers))
        moments.add(returns[:, None], slice(self._numbers, None))
        if self._gather:
            self._gather(self._moments)
        self._ended[writer] = self._begun[writer]

    def write_to(self, vector: Float[Tensor, " P"]) -> None:
        """Writes mean and scale of the numbers into the weights."""
        if not self._slices:
            return
        known, (first, scale, *rest) = self._all(), self._slices
        mean, std = known.mean()[:-1], known.std()[:-1]
        vector[first] = mean.to(vector)
        for rounding in rest:
            vector[rounding] = (mean - mean.float()).to(vector)
        least = least_std(mean, torch.float64 if rest else torch.float32)
        vector[scale] = (1 / std.maximum(least)).to(vector)

    def reset_to(self, vector: Float[Tensor, " P"]) -> None:
        """Takes the statistics of observations from `vector`, and keeps the count.

        Otherwise the next batch would replace the mean and the scale that belong to these weights.
        """
        if self._slices:
            mean, scale, *rest = (vector[each].double().cpu() for each in self._slices)
            count = self._all().parts[0, :-1]
            self._moments[:, :, :-1] = 0.0
            self._moments[0, :, :-1] = torch.stack([count, sum(rest, mean), count * scale.pow(-2)])

    @property
    def return_std(self) -> float:
        """The standard deviation of returns; 1 before the first."""
        known = self._all()
        return float(known.std()[-1].maximum(least_std(known.mean()[-1], torch.float64)))

    def state(self) -> dict[str, Tensor]:
        return {"moments": self._all().parts}

    def load(self, state: Mapping[str, Tensor]) -> None:
        saved = state["moments"] if "moments" in state else RunningMoments.of_sums(state["statistics"]).parts
        self._moments.zero_()
        self._moments[0] = saved

    def _all(self) -> RunningMoments:
        for _ in range(_TRIES):
            ended = self._ended.copy()
            merged = RunningMoments.merged(self._moments)
            if (self._begun == ended).all():
                break
        return merged

    def _attach(self) -> None:
        self._moments = torch.from_numpy(self._block["moments"])
        self._begun, self._ended = self._block["begun"], self._block["ended"]
        self._of_writers = [RunningMoments(each) for each in self._moments]

    def __getstate__(self) -> tuple[Any, ...]:
        return self._numbers, self._slices, self._block

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        (self._numbers, self._slices, self._block), self._gather = state, None
        self._attach()
