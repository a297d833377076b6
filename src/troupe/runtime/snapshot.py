"""The state of a run between two batches, as a checkpoint keeps it."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from troupe.algorithm import optimizers
from troupe.runtime.learning.weights import HogwildMaster, Master
from troupe.runtime.progress import Counts, Episode, Progress


@dataclass(frozen=True)
class Snapshot:
    """A copy. `streams` is everything else that determines how the run continues: generators, environments,
    episodes under way. It is None if that cannot be saved, because threads are at work."""

    weights: Tensor
    eval_weights: Tensor  # the weights to evaluate: these, or their moving average
    optimizer: dict[str, Tensor]
    version: int
    counts: Counts
    recent: tuple[Episode, ...]
    streams: dict[str, Any] | None
    novelty: list[dict[str, Any]]  # of each learner that has one

    @classmethod
    def of(
        cls,
        master: Master | HogwildMaster,
        progress: Progress,
        streams: dict[str, Any] | None = None,
        novelty: list[dict[str, Any]] | None = None,
    ) -> "Snapshot":
        optimizer = {name: tensor.clone() for name, tensor in master.state().items()}
        weights = master.vector.clone()
        eval_weights = optimizers.eval_weights(master.optimizer, weights)
        return cls(weights, eval_weights, optimizer, master.version, *progress.state(), streams, novelty or [])

    def restore(self, master: Master | HogwildMaster, progress: Progress) -> None:
        """Undoes what has been learned and counted since."""
        master.vector.copy_(self.weights)
        master.load(self.optimizer)
        progress.restore(self.counts, self.recent)
