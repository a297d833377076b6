"""What an actor is made from: the same plan whether it runs in a thread or travels to a process."""

import copy
import math
import random
from dataclasses import dataclass

import numpy as np
import torch

from troupe.algorithm.schedules import CONSTANT, LinearSchedule
from troupe.config import Environment, Exploration, UsageError
from troupe.config import Learner as LearnerConfig
from troupe.networks.actor_critic import ActorCritic
from troupe.networks.flat import FlatWeights
from troupe.runtime.acting.actor import Actor, StateTracker
from troupe.runtime.acting.batched_inference import BatchedInference, PredictionClient
from troupe.runtime.acting.inference import Inference, LocalInference, generator
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
class LearnerPlan:
    """What a hogwild worker learns with."""

    config: LearnerConfig
    objective: Objective
    annealing: LinearSchedule = CONSTANT


@dataclass(frozen=True)
class ActorPlan:
    """Everything an actor is made from; `build` makes it."""

    number: int
    source: ByValue
    environment: Environment
    environments: int
    parts: int  # in which they take turns
    restorable: bool  # whether a checkpoint is to put its environments back where they were
    epsilon: LinearSchedule  # by the steps of all actors
    seeds: np.random.SeedSequence
    device: str  # where its copy of the network acts
    window: int
    policy_source: PolicySource
    learner: LearnerPlan  # a window reads its gamma, the workers of hogwild all of it
    state_size: int = 0  # of the policy's recurrent state

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
        make = self.source.value.make_restorable if self.restorable else self.source.value.make_vector
        # Those that are put back, or served by a predictor, go all together.
        whole = self.restorable or isinstance(self.policy_source, PredictionClient)
        parts = 1 if whole else min(self.parts, self.environments)
        sizes = np.bincount(np.arange(self.environments) % parts).tolist()
        environments = [make(size, self.environment) for size in sizes]

        alone = self.restorable or isinstance(gate, RemoteGate)  # topology serial, or a process

        def actor(inference: Inference) -> Actor:
            rewards = self.learner.objective.rewards
            gamma = rewards.gamma if rewards.normalize else None
            count, size = self.environments, self.state_size
            states = StateTracker(count, size, self.source.value.actions) if size else None
            seed, epsilon = environment_seed, self.epsilon
            return Actor(environments, inference, epsilon, progress, seed, pulse, gamma, states, alone=alone)

        if isinstance(self.policy_source, PredictionClient):
            return self._windowed(actor(BatchedInference(self.policy_source, gate)))
        network, weights = copy.deepcopy(self.policy_source[0].value).to(self.device), self.policy_source[1]
        if isinstance(weights, HogwildMaster):
            learner = self._learner(network, weights, progress, gate, action_seed.spawn(2)[1])
            inference = LocalInference(learner.weights, weights, generator(action_seed), gate)
            return Worker(self.number, actor(inference), learner, weights, progress)
        own = FlatWeights(network)
        # Cast once for a rollout, not for every step; but a mean is no less exact than what it is taken from, nor is
        # what a memory is added up with.
        exact = network.normalizer is not None or network.state_size or own.buffers
        precision = torch.float32 if exact else network.precision
        own.move_to(own.vector.to(self.device, precision))
        draws = generator(action_seed, own.vector.device)
        return self._windowed(actor(LocalInference(own, weights, draws, gate)))

    def _windowed(self, actor: Actor) -> Rollouter:
        if not self.window:
            return actor
        source = self.source.value
        return NStepActor(
            actor,
            NStepWindow(self.window, self.learner.objective.rewards.gamma),
            [allocate(RolloutSpec(source.packing.space, 1, 1, source.actions)) for _ in range(self.window + 1)],
        )

    def _learner(
        self,
        network: ActorCritic,
        master: HogwildMaster,
        progress: Progress,
        gate: Gate | RemoteGate,
        seed: np.random.SeedSequence,
    ) -> Learner:
        plan = self.learner
        return Learner(
            network, master, plan.objective, plan.config, progress, gate, np.random.default_rng(seed),
            annealing=plan.annealing,
        )  # fmt: skip

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
