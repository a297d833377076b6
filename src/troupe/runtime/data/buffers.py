"""The rollouts of a run, allocated once, and the queues in which they circulate."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from troupe.config import TrainConfig
from troupe.runtime.data.queue import RolloutQueue
from troupe.runtime.data.rollout import Rollout, RolloutSpec, allocate, allocate_shared
from troupe.runtime.data.shared_memory import Block


@dataclass(frozen=True)
class RolloutBuffers:
    """`queue` is the one that learners take rollouts from. `queues` has, for each actor, the one that it takes empty
    rollouts from: the same one, or its own where each actor learns from its own rollouts."""

    spec: RolloutSpec
    queue: RolloutQueue
    queues: Sequence[RolloutQueue]
    new: Callable[[], Rollout]  # allocates a replacement for one that is lost with its actor
    block: Block | None = None  # the shared memory that all are in
    slots: int = 0  # of the block

    @classmethod
    def of(
        cls,
        config: TrainConfig,
        spec: RolloutSpec,
        actors: int,
        per_actor: int,
        *,
        shared: bool,
        pinned: bool,
    ) -> "RolloutBuffers":
        """Buffers = actors x `per_actor` + those that wait or are learned from: the queue's capacity, at least a batch.

        With `shared` they are in memory that other processes see.
        """
        own = config.traits.learns_in_actors
        waiting = 0 if own else max(config.queue.capacity, config.learner.rollouts)
        number, block = waiting + per_actor * actors, None
        new = partial(allocate, spec, pinned=pinned)
        if shared:
            block, rollouts = allocate_shared(spec, number)
        else:
            rollouts = [new() for _ in range(number)]
        if not own:
            queue = RolloutQueue(rollouts)
            return cls(spec, queue, [queue] * actors, new, block, number)
        firsts = range(0, number, per_actor)
        queues = [RolloutQueue(rollouts[first : first + per_actor]) for first in firsts]
        return cls(spec, RolloutQueue([]), queues, new, block, number)
