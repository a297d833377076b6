"""What an actor is made from: the same plan whether it runs in a thread or is sent to a process."""

import copy
import math
import random
from dataclasses import dataclass

import numpy as np
import torch

from troupe.algorithm.schedules import LinearSchedule, Schedule
from troupe.config import Exploration, TrainConfig, UsageError
from troupe.networks.flat import FlatWeights
from troupe.runtime.acting.actor import Actor, StateTracker
from troupe.runtime.acting.inference import BatchedInference, Inference, LocalInference, PredictionClient, generator
from troupe.runtime.acting.n_step_window import NStepActor, NStepWindow
from troupe.runtime.data.rollout import RolloutSpec, allocate
from troupe.runtime.data.shared_memory import ByValue
from troupe.runtime.execution.gate import Gate, RemoteGate
from troupe.runtime.learning.hogwild import Worker
from troupe.runtime.learning.learner import Learner, Objective
from troupe.runtime.learning.weights import HogwildMaster, Weights
from troupe.runtime.progress import Progress

# Where actions come from: one end of the prediction queue, or a copy of the network and what refreshes it.
PolicySource = PredictionClient | tuple[ByValue, Weights]
Rollouter = Actor | NStepActor | Worker


@dataclass(frozen=True)
class ActorPlan:
    """Everything an actor is made from; `build` makes it."""

    number: int
    source: ByValue
    config: TrainConfig
    objective: Objective  # its gamma is a window's; a hogwild worker learns by it
    annealing: Schedule  # of the learning rate of a hogwild worker
    epsilon: LinearSchedule  # by the steps of all actors
    seeds: np.random.SeedSequence
    device: str  # of its copy of the network
    policy_source: PolicySource
    state_size: int  # of a recurrent policy

    def seed_process(self, generation: int) -> None:
        """Seeds the global streams of `random`, NumPy and torch, which some environments draw from. For an actor that
        has a process to itself: in threads they belong to the whole program."""
        words = self._seeds(generation)[1].spawn(1)[0].generate_state(8)
        random.seed(words.tobytes())
        np.random.seed(words)
        torch.manual_seed(int(words[0]))

    def build(self, generation: int, progress: Progress, gate: Gate | RemoteGate, pulse: np.ndarray) -> Rollouter:
        """The actor of this plan; `generation` counts its predecessors, whose streams it must not repeat."""
        environment_seed, action_seed = self._seeds(generation)
        source, count, rewards = self.source.value, self.config.actor.environments, self.objective.rewards
        restorable = self.config.traits.serial  # then a checkpoint restores the environments
        make = source.make_restorable if restorable else source.make_vector
        # Environments that are restored, or served by a predictor, are one group.
        whole = restorable or isinstance(self.policy_source, PredictionClient)
        parts = 1 if whole else min(self.config.actor.parts, count)
        sizes = np.bincount(np.arange(count) % parts).tolist()
        environments = [make(size, self.config.env) for size in sizes]

        def actor(inference: Inference) -> Actor:
            states = StateTracker(count, self.state_size, source.actions) if self.state_size else None
            return Actor(
                environments, inference, self.epsilon, progress, environment_seed, pulse,
                rewards.gamma if rewards.normalize else None, states, alone=restorable or isinstance(gate, RemoteGate),
                restarts=self.config.actor.restarts if self.config.env.on_error == "restart" else None,
            )  # fmt: skip

        if isinstance(self.policy_source, PredictionClient):
            return self._windowed(actor(BatchedInference(self.policy_source, gate)))
        network, weights = copy.deepcopy(self.policy_source[0].value).to(self.device), self.policy_source[1]
        if isinstance(weights, HogwildMaster):
            rng = np.random.default_rng(action_seed.spawn(2)[1])
            learner = Learner(
                network, weights, self.objective, self.config.learner, progress, gate, rng, annealing=self.annealing
            )
            inference = LocalInference(learner.weights, weights, generator(action_seed), gate)
            return Worker(self.number, actor(inference), learner, weights, progress)
        own = FlatWeights(network)
        # Cast once per rollout, not per step. Running means and recurrent states accumulate errors: these stay float32.
        exact = network.normalizer is not None or network.state_size or own.buffers
        own.move_to(own.vector.to(self.device, torch.float32 if exact else network.precision))
        draws = generator(action_seed, own.vector.device)
        return self._windowed(actor(LocalInference(own, weights, draws, gate)))

    def _windowed(self, actor: Actor) -> Rollouter:
        steps, source = self.config.actor.window_steps, self.source.value
        if not steps:
            return actor
        spec = RolloutSpec(source.packing.space, 1, 1, source.actions)
        rows = [allocate(spec) for _ in range(steps + 1)]
        return NStepActor(actor, NStepWindow(steps, self.objective.rewards.gamma), rows)

    def _seeds(self, generation: int) -> tuple[np.random.SeedSequence, np.random.SeedSequence]:
        first, second = (
            np.random.SeedSequence(self.seeds.entropy, spawn_key=(*self.seeds.spawn_key, 2 * generation + part))
            for part in (0, 1)
        )
        return first, second


def epsilon_schedules(config: Exploration, actors: int, rng: np.random.Generator) -> list[LinearSchedule]:
    """One for each actor: values assigned in turn, or sampled from a distribution."""
    starts = _spread(config.epsilon, config.distribution, actors, rng)
    ends = _spread(config.epsilon_end, "listed", actors, rng) if config.epsilon_end else starts
    return [LinearSchedule(0, config.decay_steps, *each) for each in zip(starts, ends, strict=True)]


def _spread(values: tuple[float, ...], distribution: str, actors: int, rng: np.random.Generator) -> list[float]:
    low, high = values[0], values[-1]
    if distribution == "uniform":
        return [float(value) for value in rng.uniform(low, high, actors)]
    if distribution == "loguniform":
        if not (low > 0 and high > 0):
            raise UsageError(f"exploration.epsilon = {low:g}, {high:g}: a loguniform distribution needs values above 0")
        return [math.exp(value) for value in rng.uniform(math.log(low), math.log(high), actors)]
    return [values[i % len(values)] for i in range(actors)]
