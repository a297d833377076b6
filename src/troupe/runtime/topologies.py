"""The topologies: the same parts, put together in different ways.

    serial   one actor and one learner take turns in one thread: deterministic
    queue    N actor threads, one queue, M learner threads on one network (the article)
    async    N actor threads, one queue, one learner; the loss corrects the lag (IMPALA, APPO)

The last two differ in numbers and in the loss, not in how the parts are joined.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from troupe.algorithm import losses
from troupe.algorithm.optimizers import Adam, Optimizer, RMSProp
from troupe.config import Learner as LearnerConfig
from troupe.config import Loss, TrainConfig
from troupe.environments import EnvironmentSource
from troupe.networks.actor_critic import ActorCritic
from troupe.networks.flat import FlatWeights
from troupe.runtime.actor import Actor
from troupe.runtime.exploration import schedules
from troupe.runtime.gate import Gate
from troupe.runtime.inference import LocalInference
from troupe.runtime.learner import Learner, LossFunction
from troupe.runtime.progress import Progress
from troupe.runtime.queue import RolloutQueue
from troupe.runtime.rollout import allocate, stack
from troupe.runtime.supervisor import Supervisor, idlest_core
from troupe.runtime.weights import Master, WeightStore
from troupe.runtime.window import Window, WindowActor


@dataclass(frozen=True)
class Parts:
    """Everything that moves in a run."""

    actors: list[Actor | WindowActor]
    learners: list[Learner]
    queue: RolloutQueue
    master: Master
    progress: Progress
    gate: Gate
    config: TrainConfig

    def start(self, supervisor: Supervisor, after_batch: Callable[[], None]) -> None:
        """Starts the run's threads. `after_batch` is called, by one learner at a time, after each batch."""
        if self.config.topology == "serial":
            supervisor.start("serial", partial(_take_turns, self, after_batch))
            return
        core = idlest_core() if self.config.threads == "one-core" else None
        for number, actor in enumerate(self.actors):
            supervisor.start(f"actor-{number}", partial(_act, self, number, actor), core)
        for number, learner in enumerate(self.learners):
            supervisor.start(f"learner-{number}", partial(_learn, self, learner, after_batch), core)

    def close(self) -> None:
        for actor in self.actors:
            actor.close()


def _take_turns(parts: Parts, after_batch: Callable[[], None]) -> None:
    (actor,), (learner,) = parts.actors, parts.learners
    index = 0
    while True:
        for _ in range(parts.config.learner.rollouts):
            _collect(parts, 0, actor, index)
            index += 1
        _consume(parts, learner, after_batch)


def _act(parts: Parts, number: int, actor: Actor | WindowActor) -> None:
    index = 0
    while True:
        _collect(parts, number, actor, index)
        index += 1


def _learn(parts: Parts, learner: Learner, after_batch: Callable[[], None]) -> None:
    while True:
        _consume(parts, learner, after_batch)


def _collect(parts: Parts, number: int, actor: Actor | WindowActor, index: int) -> None:
    rollout = parts.queue.acquire()
    actor.watch.lap("wait")
    rollout.actor, rollout.index = number, index
    actor.collect(rollout)
    parts.queue.put(rollout)


def _consume(parts: Parts, learner: Learner, after_batch: Callable[[], None]) -> None:
    rollouts = parts.queue.get(parts.config.learner.rollouts, parts.config.learner.take_all)
    learner.watch.lap("wait")
    parts.progress.consume(rollouts, parts.master.store.version)
    batch = stack(rollouts)
    parts.queue.release(rollouts)
    learner.learn(batch)
    with parts.master.lock:
        after_batch()
    learner.watch.lap("other")


def assemble(
    config: TrainConfig,
    source: EnvironmentSource,
    network: ActorCritic,
    seeds: np.random.SeedSequence,
    progress: Progress,
    version: int = 0,
) -> Parts:
    """Builds the parts of a run around `network`, which becomes the master's."""
    window = config.actor.window_steps
    actor_seeds, learner_seeds, exploration_seed = seeds.spawn(3)
    vector = FlatWeights(network).vector
    store = WeightStore(vector, version)
    master = Master(vector, build_optimizer(config.learner, vector), store)
    gate = Gate(one_at_a_time=config.threads != "free")
    steps, environments = (1, 1) if window else (config.actor.rollout_steps, config.actor.environments)
    new_rollout = partial(allocate, source.observation_space, steps, environments)
    # One for every actor to fill, beside those that wait: at least a batch.
    waiting = max(config.queue.capacity, config.learner.rollouts)
    rollouts = [new_rollout() for _ in range(waiting + config.actor.count)]
    epsilons = schedules(config.exploration, config.actor.count, np.random.default_rng(exploration_seed))
    actors: list[Actor | WindowActor] = []
    for seed, epsilon in zip(actor_seeds.spawn(config.actor.count), epsilons, strict=True):
        environment_seed, action_seed = seed.spawn(2)
        generator = torch.Generator().manual_seed(int(action_seed.generate_state(1, np.uint64)[0]))
        inference = LocalInference(copy.deepcopy(network), store, generator)
        environment = source.make_vector(config.actor.environments, config.env)
        actor = Actor(environment, inference, epsilon, progress, gate, environment_seed)
        if window:
            rows = [new_rollout() for _ in range(window + 1)]
            actors.append(WindowActor(actor, Window(window, config.loss.gamma), rows))
        else:
            actors.append(actor)
    learners = [
        Learner(
            copy.deepcopy(network), master, build_loss(config.loss), config.learner, progress, gate,
            np.random.default_rng(seed), gamma=config.loss.gamma, reward_scale=config.loss.reward_scale,
        )
        for seed in learner_seeds.spawn(config.learner.count)
    ]  # fmt: skip
    return Parts(actors, learners, RolloutQueue(rollouts), master, progress, gate, config)


def build_loss(config: Loss) -> LossFunction:
    shared: dict[str, Any] = {
        "value_coefficient": config.value_coefficient,
        "entropy_coefficient": config.entropy_coefficient,
    }
    if config.kind == "a3c":
        return partial(losses.a3c, lam=config.lam, probability_floor=config.probability_floor, **shared)
    corrected = {"lam": config.lam, "rho_clip": config.rho_clip, "c_clip": config.c_clip, **shared}
    if config.kind == "impala":
        return partial(losses.impala, **corrected)
    return partial(losses.appo, clip=config.clip, normalize_advantage=config.normalize_advantage, **corrected)


def build_optimizer(config: LearnerConfig, vector: torch.Tensor) -> Optimizer:
    if config.optimizer == "adam":
        return Adam(vector, epsilon=config.epsilon)
    return RMSProp(vector, decay=config.decay, epsilon=config.epsilon, initial=config.initial_accumulator)
