"""How actors get their actions: from a copy of the network, or from predictors (batched.py)."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from troupe.networks.actor_critic import ActorCritic, PolicyOutput
from troupe.networks.flat import FlatWeights
from troupe.networks.recurrent import RecurrentState
from troupe.runtime.execution.gate import Gate, RemoteGate
from troupe.runtime.learning.weights import Weights
from troupe.runtime.progress import Stopwatch


class InferenceOutput(NamedTuple):
    action: np.ndarray  # [B, ...], rows of numbers (environments/actions.py)
    log_prob: np.ndarray  # [B], under the policy that really acted, exploration included
    version: int  # of the weights
    next_state: np.ndarray | None = None  # [B, S], of a recurrent policy


class Inference(Protocol):
    watch: Stopwatch  # of the actor, who lends it: what it has to wait for within `act` is told there

    def refresh(self) -> int:
        """Called between rollouts: the only moment at which an actor's own weights change. Their version."""

    def act(self, obs: np.ndarray, epsilon: float, state: RecurrentState | None = None) -> InferenceOutput:
        """Samples from (1 - epsilon) pi + epsilon / A for each of [B] observations.

        The caller keeps the state of a recurrent policy.
        """


def generator(seed: np.random.SeedSequence, device: torch.device | str = "cpu") -> torch.Generator:
    """torch's generator for a stream of ours."""
    return torch.Generator(device).manual_seed(int(seed.generate_state(1, np.uint64)[0]))


class LocalInference:
    """A copy of the network in the actor's own hands, refreshed between rollouts only."""

    def __init__(
        self, network: FlatWeights[ActorCritic], weights: Weights, generator: torch.Generator, gate: Gate | RemoteGate
    ):
        self._pulled, self._network = network.vector, network.module
        self._weights, self._generator, self._gate = weights, generator, gate
        self._device = network.vector.device
        self._version = -1
        self.watch = Stopwatch()

    def refresh(self) -> int:
        self._version = self._weights.pull(self._pulled, self._version)
        return self._version

    def act(self, obs: np.ndarray, epsilon: float, state: RecurrentState | None = None) -> InferenceOutput:
        with self._gate.turn(self.watch), torch.inference_mode():
            seen = torch.from_numpy(obs).to(self._device, non_blocking=True)
            output: PolicyOutput = self._network(seen, state and state.to(self._device))
            behaviour = output.distribution.with_epsilon(epsilon)
            action = behaviour.sample(self._generator)
            log_prob = behaviour.log_prob(action).cpu().numpy()
            next_state = None if output.next_state is None else output.next_state.cpu().numpy()
            return InferenceOutput(action.cpu().numpy(), log_prob, self._version, next_state)

    def state(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state().numpy()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._generator.set_state(torch.from_numpy(state["generator"]))
