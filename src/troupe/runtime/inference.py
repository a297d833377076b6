"""How actors get their actions."""

from typing import NamedTuple

import numpy as np
import torch

from troupe.networks.actor_critic import ActorCritic
from troupe.networks.flat import FlatWeights
from troupe.runtime.weights import WeightStore


class Decision(NamedTuple):
    action: np.ndarray  # [B], from 0
    log_prob: np.ndarray  # [B], under the policy that really acted, exploration included


class LocalInference:
    """A copy of the network in the actor's own hands, refreshed between rollouts only."""

    def __init__(self, network: ActorCritic, store: WeightStore, generator: torch.Generator):
        self._network = network
        self._weights = FlatWeights(network)
        self._store = store
        self._generator = generator
        self.version = -1

    def refresh(self) -> int:
        """Takes the newest weights; returns their version."""
        self.version = self._store.pull(self._weights.vector, self.version)
        return self.version

    @torch.inference_mode()
    def act(self, obs: np.ndarray, epsilon: float) -> Decision:
        """Samples from (1 - epsilon) pi + epsilon / A for each of [B] observations."""
        behaviour = self._network.step(torch.from_numpy(obs)).distribution.with_epsilon(epsilon)
        action = behaviour.sample(self._generator)
        return Decision(action.numpy(), behaviour.log_prob(action).numpy())
