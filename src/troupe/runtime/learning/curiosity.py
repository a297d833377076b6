"""Novelty bonuses: a learner computes them for each of its batches, on which the predictor is then trained.

Each learner has its own predictor, so nothing is shared and the journal need not record it. What the
learners see is alike, so their predictors are.
"""

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from troupe.algorithm.losses import Bonus
from troupe.algorithm.normalization import RunningMoments
from troupe.algorithm.optimizers import Adam, load_state
from troupe.algorithm.returns import masked_mean, reverse_scan
from troupe.config import Novelty as Config
from troupe.environments.packing import Packing
from troupe.networks.flat import FlatWeights
from troupe.networks.novelty import Novelty
from troupe.runtime.data.rollout import Rollout


class Curiosity:
    """Novelty with its predictor's optimizer, and the scales of its inputs and of the bonuses."""

    def __init__(self, packing: Packing, config: Config, seed: np.random.SeedSequence, device: torch.device):
        self._config, self._device = config, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seed.spawn(1)[0].generate_state(1, np.uint64)[0]))
            self.novelty = Novelty(packing, config).to(device)
        self._predictor = FlatWeights(self.novelty.predictor)
        self._optimizer = Adam(self._predictor.vector)
        self._observations = RunningMoments.empty(self.novelty.flat.features)
        self._returns = RunningMoments.empty(1)
        self._level = 0.0  # mean of the discounted sums at the end of the last batch
        self._lock = threading.Lock()  # so that a checkpoint never sees half an update

    def bonus(self, rollout: Rollout) -> Bonus:
        """The bonus for the observation after each action, by the predictor before this batch; 0 on reset rows."""
        with self._lock:
            valid = torch.from_numpy(rollout.valid).to(self._device)
            error = self._error(rollout.obs[1:], valid)
            self._learn(masked_mean(error, valid))
            error = error.detach()
            discount = torch.where(valid, self._config.gamma, 1.0)
            return Bonus(error / self._scale(error, discount, valid), discount, self._config.coefficient)

    def state(self) -> dict[str, Any]:
        with self._lock:
            return {
                "novelty": _copies(self.novelty.state_dict()),
                "optimizer": _copies(self._optimizer.state()),
                "observations": self._observations.parts.numpy().copy(),
                "returns": self._returns.parts.numpy().copy(),
                "moments": True,  # earlier versions kept sums there
                "level": self._level,
            }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.novelty.load_state_dict({name: torch.from_numpy(each) for name, each in state["novelty"].items()})
        load_state(self._optimizer, {name: torch.from_numpy(each) for name, each in state["optimizer"].items()})
        read = RunningMoments if state.get("moments") else RunningMoments.of_sums
        self._observations = read(torch.from_numpy(state["observations"].copy()))
        self._returns = read(torch.from_numpy(state["returns"].copy()))
        self._level = state["level"]

    def _error(self, following: np.ndarray, valid: Bool[Tensor, "T B"]) -> Float[Tensor, "T B"]:
        obs = torch.from_numpy(following).to(self._device)
        flat = self.novelty.flatten(obs.flatten(0, 1))
        self._observations.add(flat[valid.flatten()])
        error: Tensor = self.novelty(flat, self._observations.mean().to(flat), self._observations.std().to(flat))
        return error.reshape(valid.shape).where(valid, 0.0)

    def _learn(self, loss: Tensor) -> None:
        """One step of the predictor; a gradient that is not finite is refused, as the policy's are."""
        gradient = self._predictor.gradient(loss)
        if torch.isfinite(gradient).all():
            self._optimizer.step(self._predictor.vector, gradient, self._config.learning_rate)

    def _scale(
        self, error: Float[Tensor, "T B"], discount: Float[Tensor, "T B"], valid: Bool[Tensor, "T B"]
    ) -> Float[Tensor, ""]:
        """The running standard deviation of R_t = gamma R_{t-1} + error_t, across episode ends (section 2.4).

        A column is another environment in each batch, so all of them start from the mean with which the
        columns of the last batch ended.
        """
        received = error.clone()
        received[0] += discount[0] * self._level
        # The scan runs backwards in time, so time is reversed; R_{t-1} is discounted by the factor of step t.
        sums = reverse_scan(received.flip(0), discount.flip(0)).flip(0)
        self._level = float(sums[-1].mean())
        self._returns.add(sums[valid].unsqueeze(1))
        return self._returns.std().to(sums).squeeze() + 1e-8


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in tensors.items()}
