"""Actors and learners on a bench: each made alone, with everything it needs in reach of the test."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from troupe.config import Environment, Network
from troupe.config import Learner as LearnerConfig
from troupe.environments import EnvironmentSource, find
from troupe.networks.actor_critic import ActorCritic, build
from troupe.networks.flat import FlatWeights
from troupe.runtime.actor import Actor
from troupe.runtime.gate import Gate
from troupe.runtime.inference import LocalInference
from troupe.runtime.learner import Learner
from troupe.runtime.progress import Progress
from troupe.runtime.rollout import Rollout, allocate, check
from troupe.runtime.weights import Master, WeightStore


@dataclass
class Stage:
    """One actor and all that it was made of."""

    source: EnvironmentSource
    actor: Actor
    network: ActorCritic  # with the weights that were published last
    store: WeightStore
    progress: Progress
    gate: Gate
    environments: list[Any]

    def collect(self, steps: int) -> Rollout:
        """A rollout of `steps` rows that keeps the contract."""
        rollout = allocate(self.source.observation_space, steps, len(self.environments))
        self.actor.collect(rollout)
        check(rollout)
        return rollout

    def publish(self, **policy: Any) -> None:
        """Publishes the network with the policy head's `weight` or `bias` changed."""
        for name, value in policy.items():
            getattr(self.network.body.policy, name).data.copy_(torch.tensor(value))
        self.store.publish(torch.cat([each.detach().reshape(-1) for each in self.network.parameters()]))


@pytest.fixture(scope="session")
def stage() -> Callable[..., Stage]:
    def make(
        env: Any,
        environments: int = 2,
        *,
        epsilon: Callable[[int], float] = lambda played: 0.0,
        seed: int | np.random.SeedSequence = 0,
        backend: str = "auto",
        hidden: tuple[int, ...] = (8,),
    ) -> Stage:
        source = find(env)
        torch.manual_seed(0)
        network = build(source.observation_space, source.action_space, Network(hidden=hidden))
        store, progress, gate = WeightStore(FlatWeights(network).vector), Progress(), Gate()
        generator = torch.Generator().manual_seed(1)
        inference = LocalInference(FlatWeights(copy.deepcopy(network)), store, generator, gate)
        vector = source.make_vector(environments, Environment(backend=backend))
        seeds = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
        actor = Actor(vector, inference, epsilon, progress, seeds, np.zeros(1))
        inner = getattr(vector._vector, "envs", [vector._vector] * environments)
        made = [getattr(each, "unwrapped", each) for each in inner]
        return Stage(source, actor, network, store, progress, gate, made)

    return make


class Line(nn.Module):
    """Logits [0, w x] and value v x of observations [N, 1]: gradients that can be worked out by hand."""

    def __init__(self, w: float = 0.0, v: float = 0.0):
        super().__init__()
        self.w, self.v = nn.Parameter(torch.tensor(w)), nn.Parameter(torch.tensor(v))

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        x = obs[:, 0]
        return torch.stack((torch.zeros_like(x), self.w * x), -1), self.v * x


@dataclass
class Descent:
    """w <- w - rate * g, and what it was given."""

    gradients: list[Tensor] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def step(self, weights: Tensor, gradient: Tensor, learning_rate: float) -> None:
        self.gradients.append(gradient.clone())
        self.rates.append(learning_rate)
        weights.sub_(gradient, alpha=learning_rate)


@dataclass
class School:
    """One learner on a Line, and all that it was made of."""

    learner: Learner
    master: Master
    optimizer: Descent
    progress: Progress


@pytest.fixture(scope="session")
def school() -> Callable[..., School]:
    def make(
        loss: Any,
        *,
        body: nn.Module | None = None,
        master: Master | None = None,
        gamma: float = 0.9,
        reward_scale: float = 1.0,
        progress: Progress | None = None,
        **settings: Any,
    ) -> School:
        network = ActorCritic(body or Line())
        if master is None:
            vector = FlatWeights(copy.deepcopy(network)).vector
            master = Master(vector, Descent(), WeightStore(vector))
        config = LearnerConfig(**{"epochs": 1, "minibatches": 1, "learning_rate": 1.0, "gradient_norm": 0.0} | settings)
        progress = progress or Progress()
        learner = Learner(
            network, master, loss, config, progress, Gate(), np.random.default_rng(0),
            gamma=gamma, reward_scale=reward_scale,
        )  # fmt: skip
        return School(learner, master, master.optimizer, progress)

    return make


@pytest.fixture(scope="session")
def blank() -> Callable[..., Rollout]:
    """A rollout of ones and zeros: observations [1.0], actions 1, no rewards, no endings."""

    def make(steps: int = 1, environments: int = 1, **fields: Any) -> Rollout:
        rollout = allocate(gym.spaces.Box(-1e9, 1e9, (1,), np.float32), steps, environments)
        rollout.obs[:] = 1.0
        rollout.action[:] = 1
        rollout.behaviour_log_prob[:] = np.log(0.5)
        for name, value in fields.items():
            getattr(rollout, name)[...] = value
        return rollout

    return make
