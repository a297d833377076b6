"""The learner: rollouts -> returns -> loss -> gradient -> better weights."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from troupe.algorithm.losses import Batch, Metrics, Outputs
from troupe.algorithm.optimizers import clip_by_norm
from troupe.config import Learner as LearnerConfig
from troupe.config import TroupeError
from troupe.networks.actor_critic import ActorCritic
from troupe.networks.flat import FlatWeights
from troupe.runtime.gate import Gate, RemoteGate
from troupe.runtime.progress import Progress, Stopwatch
from troupe.runtime.rollout import Rollout, columns
from troupe.runtime.weights import HogwildMaster, Master

LossFunction = Callable[[Outputs, Batch], tuple[Tensor, Metrics]]
_PATIENCE = 100  # updates in a row that may be refused before the run is given up


class Learner:
    """Improves the master's weights, a batch of rollouts at a time, on a copy of the network of its own."""

    def __init__(
        self,
        network: ActorCritic,
        master: Master | HogwildMaster,
        loss: LossFunction,
        config: LearnerConfig,
        progress: Progress,
        gate: Gate | RemoteGate,
        rng: np.random.Generator,
        *,
        gamma: float,
        reward_scale: float = 1.0,
    ):
        self._network, self.weights = network, FlatWeights(network)
        self._master, self._loss, self._config = master, loss, config
        self._progress, self._gate, self._rng = progress, gate, rng
        self._gamma, self._reward_scale = gamma, reward_scale
        self._refused = 0
        self.watch = Stopwatch()
        self.metrics: Metrics = {}

    def learn(self, batch: Rollout) -> None:
        """Makes the updates that one batch is good for, and publishes the weights."""
        for _ in self.touches(batch):
            pass
        self.watch.lap("learn")

    def touches(self, batch: Rollout) -> Iterator[Literal["copy", "apply", "publish"]]:
        """`learn`, pausing before each time it touches the master, and saying how: so that a replay can
        let several learners touch it in the order in which they did."""
        assert isinstance(self._master, Master)  # a worker of hogwild calls the two halves itself
        for _ in range(self._config.epochs):
            for part in self._minibatches(batch):
                with self._gate.turn():
                    yield "copy"
                    self._master.copy_to(self.weights.vector)
                    gradient = self.compute_gradient(part)
                    yield "apply"
                    self.apply_gradient(gradient)
        yield "publish"
        self._master.publish()

    def compute_gradient(self, rollout: Rollout) -> Tensor:
        """The gradient of the loss on `rollout`, at the weights this learner holds."""
        device = self.weights.vector.device
        output = self._network.unroll(torch.from_numpy(rollout.obs).to(device))
        steps = len(rollout.action)
        outputs = Outputs(output.distribution[:steps], output.value)
        loss, self.metrics = self._loss(outputs, to_batch(rollout, self._gamma, self._reward_scale, device))
        # 0 * loss is NaN where the loss is not finite; so is the gradient then, and it will be refused.
        return self.weights.gradient(loss).add_(0.0 * loss.detach())

    def apply_gradient(self, gradient: Tensor) -> None:
        """Clips and applies `gradient`. One that is not finite is refused: the weights stay as they are."""
        norm = clip_by_norm(gradient, self._config.gradient_norm or math.inf)
        finite = math.isfinite(norm)
        if finite:
            self._master.apply(gradient, self._learning_rate())
        self._progress.update(applied=finite)
        self._refused = 0 if finite else self._refused + 1
        if self._refused == _PATIENCE:
            raise TroupeError(
                f"learning diverged: {_PATIENCE} gradients in a row were not finite; the weights are those before. "
                "A smaller learner.learning_rate or loss.reward_scale may help"
            )

    def state(self) -> dict[str, Any]:
        return {"rng": self._rng.bit_generator.state, "refused": self._refused}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._rng.bit_generator.state, self._refused = state["rng"], state["refused"]

    def _learning_rate(self) -> float:
        left = 1.0
        if self._config.anneal_steps:
            left = max(0.0, 1.0 - self._progress.counts.steps / self._config.anneal_steps)
        return self._config.learning_rate * left

    def _minibatches(self, batch: Rollout) -> Iterator[Rollout]:
        environments = batch.reward.shape[1]
        parts = min(self._config.minibatches, environments)
        if parts == 1:
            yield batch
            return
        for chosen in np.array_split(self._rng.permutation(environments), parts):
            yield columns(batch, chosen)


def to_batch(rollout: Rollout, gamma: float, reward_scale: float, device: torch.device) -> Batch:
    """The tensors a loss reads. A row's discount is gamma^horizon, or 0 where the episode terminated."""
    terminated = rollout.terminated
    discount = np.where(terminated, 0.0, gamma**rollout.horizon).astype(np.float32)
    trace = (~(terminated | rollout.truncated)).astype(np.float32)

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(device)

    return Batch(
        action=tensor(rollout.action),
        behaviour_log_prob=tensor(rollout.behaviour_log_prob),
        reward=tensor(rollout.reward * np.float32(reward_scale)),
        discount=tensor(discount),
        trace=tensor(trace),
        valid=tensor(rollout.valid),
    )
