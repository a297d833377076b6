"""The learner: rollouts -> returns -> loss -> gradient -> better weights."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from troupe.algorithm.losses import Batch, Bonus, Lately, Metrics, Outputs
from troupe.algorithm.optimizers import clip_by_norm
from troupe.algorithm.schedules import CONSTANT, LinearSchedule
from troupe.config import Learner as LearnerConfig
from troupe.config import TroupeError
from troupe.networks.actor_critic import ActorCritic, Body, Heads, PolicyOutput
from troupe.networks.flat import FlatWeights
from troupe.networks.recurrent import Memory
from troupe.runtime.acting.recurrent_state import of_rollout
from troupe.runtime.data.rollout import Rollout, columns
from troupe.runtime.execution.gate import Gate, RemoteGate
from troupe.runtime.learning.curiosity import Curiosity
from troupe.runtime.learning.thread_pool import ThreadPool
from troupe.runtime.learning.weights import HogwildMaster, Master
from troupe.runtime.progress import Counts, Progress, Stopwatch

LossFunction = Callable[..., tuple[Tensor, Metrics]]  # of Outputs and Batch; with an Entropy, of entropy_coefficient
_LARGEST_REWARD = 1e15  # in float32 the square of a sum of larger ones may be infinite
_PATIENCE = 100  # updates in a row that may be refused before the run is given up


@dataclass(frozen=True)
class Rewards:
    """What is made of rewards for learning, and for learning only."""

    gamma: float
    scale: float = 1.0
    clip: float = 0.0  # after scaling; 0 is off
    normalize: bool = False  # whether the scale is to follow the deviation of returns

    def of(self, raw: np.ndarray) -> np.ndarray:
        scaled = raw * self.scale
        with np.errstate(over="ignore"):  # infinite ones make a gradient that is refused
            return (scaled.clip(-self.clip, self.clip) if self.clip else scaled).astype(np.float32)


@dataclass(frozen=True)
class Entropy:
    """The weight of an entropy bonus that falls to 0."""

    coefficient: float
    steps: int

    def after(self, steps: int) -> float:
        return self.coefficient * LinearSchedule(0, self.steps, 1.0, 0.0)(steps)


def learning_rate(config: LearnerConfig, annealing: LinearSchedule, counts: Counts) -> float:
    """Of the next update."""
    rate = config.learning_rate * annealing(counts.steps)
    if config.warmup_updates:
        rate *= min(1.0, (counts.updates + 1) / config.warmup_updates)
    return rate


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
        rewards: Rewards,
        curiosity: Curiosity | None = None,
        entropy: Entropy | None = None,  # None leaves it to the loss
        annealing: LinearSchedule = CONSTANT,  # of the learning rate
    ):
        self._network, self.weights = network, FlatWeights(network)
        self._master, self._loss, self._config = master, loss, config
        self._progress, self._gate, self._rng = progress, gate, rng
        self._rewards, self._scale, self._device = rewards, rewards.scale, self.weights.vector.device
        self.curiosity, self._entropy, self._annealing = curiosity, entropy, annealing
        self._lately = Lately(config.advantage_decay) if config.advantage_decay else None
        self._pool = ThreadPool(max(1, config.threads))
        self._refused = 0
        self._judged = torch.zeros(0), np.zeros(0)  # the rewards of the last loss: those learned from, and the raw ones
        self.watch = Stopwatch()
        self.metrics: Metrics = {}

    def learn(self, batch: Rollout) -> None:
        """Makes the updates that one batch is good for, and publishes the weights."""
        self.watch.start("learn")
        for _ in self.touches(batch):
            pass
        self.watch.start("other")

    def touches(self, batch: Rollout) -> Iterator[Literal["observe", "copy", "apply", "publish"]]:
        """`learn`, pausing before each time it touches the master, and saying how: so that a replay can
        let several learners touch it in the order in which they did."""
        assert isinstance(self._master, Master)  # a worker of hogwild calls the parts of it itself
        oldest = batch.oldest
        if self._master.statistics:
            with self._gate.turn(self.watch):
                yield "observe"
                self.observe(batch)
        bonus = self._bonus(batch)
        for _ in range(self._config.epochs):
            for part, part_bonus in self._minibatches(batch, bonus):
                with self._gate.turn(self.watch):
                    yield "copy"
                    self._master.copy_to(self.weights.vector)
                    gradient = self.compute_gradient(part, part_bonus)
                    yield "apply"
                    with self._master.lock:
                        if oldest < self._master.oldest:  # another learner's batch has led to a rollback
                            return
                        self.apply_gradient(gradient)
        yield "publish"
        self._master.publish()

    def observe(self, batch: Rollout, writer: int = 0) -> None:
        """Adds what a batch holds to the statistics that observations and rewards are normalised by."""
        rows = batch.valid
        numbers = None
        if self._network.normalizer is not None and rows.any():  # short rollouts may be reset rows and nothing else
            numbers = self._network.numbers(_to(self._device, batch.obs[:-1][rows]))
        deviation = self._master.observe(numbers, torch.from_numpy(batch.past_return[rows]), writer)
        if self._rewards.normalize:
            self._rewards = replace(self._rewards, scale=self._scale / deviation)

    def _bonus(self, batch: Rollout) -> Bonus | None:
        """For the whole batch before any pass: the predictor learns of it in the same breath."""
        if self.curiosity is None:
            return None
        with self._gate.turn(self.watch):
            return self.curiosity.bonus(batch)

    def compute_gradient(self, rollout: Rollout, bonus: Bonus | None = None) -> Tensor:
        """The gradient of the loss on `rollout`, at the weights this learner holds."""
        obs = _to(self._device, rollout.obs)
        memory = of_rollout(rollout).to(self._device) if self._network.memory_size else None
        with self._train_mode():
            if self._pool.size == 1:
                loss = self._judge(self._network.policy(self._network.learned_heads(obs, memory)), rollout, bonus)
                gradient = self.weights.gradient(loss)
            else:
                loss, gradient = self._share_out(obs, memory, rollout, bonus)
        # 0 * loss is NaN where the loss is not finite; so is the gradient then, and it will be refused.
        return gradient.add_(0.0 * loss.detach())

    @contextmanager
    def _train_mode(self) -> Iterator[None]:
        """For a network of one's own: dropout drops, by this learner's random stream, and batch normalisation goes by
        the batch. Everywhere else networks are in eval mode."""
        if isinstance(self._network.body, Body):
            yield
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(self._rng.integers(2**63)))
            self._network.train()
            try:
                yield
            finally:
                self._network.eval()

    def _judge(self, output: PolicyOutput, rollout: Rollout, bonus: Bonus | None) -> Tensor:
        outputs = Outputs(output.distribution[: len(rollout.action)], output.value, output.bonus_value)
        batch = to_batch(rollout, self._rewards, self._device)
        batch = batch._replace(bonus=bonus, lately=self._lately)
        self._judged = batch.reward, rollout.reward
        weight = {"entropy_coefficient": self._entropy.after(self._progress.counts.steps)} if self._entropy else {}
        loss, self.metrics = self._loss(outputs, batch, **weight)
        return loss

    def _share_out(
        self, obs: Tensor, memory: Memory | None, rollout: Rollout, bonus: Bonus | None
    ) -> tuple[Tensor, Tensor]:
        """Loss and gradient, the passes through the network shared out by environments.

        The loss stays one, of all environments: its gradient with respect to what the network said is
        handed back to those who said it, and the sum of what they make of it is the whole gradient.
        """
        environments = obs.shape[1]
        ends = np.linspace(0, environments, min(self._pool.size, environments) + 1).astype(int)
        shares = [slice(*ends) for ends in pairwise(ends.tolist())]

        def forward(share: slice) -> Heads:
            return self._network.learned_heads(obs[:, share], memory and memory.columns(share))

        passes = self._pool.map(forward, shares)
        mask, heads = _joined([said.mask for said in passes]), [_learned(said) for said in passes]
        whole = [torch.cat([head.detach() for head in parts], 1).requires_grad_() for parts in zip(*heads, strict=True)]
        output = self._network.policy(Heads(whole[0], whole[1], mask, *whole[2:]))
        loss = self._judge(output, rollout, bonus)
        said = torch.autograd.grad(loss, whole, materialize_grads=True)

        def backward(number: int) -> Tensor:
            share = shares[number]
            # As a scalar: to be handed a gradient for each output, torch imports its compiler, for seconds.
            parts = [(head * of_it[:, share]).sum() for head, of_it in zip(heads[number], said, strict=True)]
            return self.weights.gradient(torch.stack(parts).sum())

        gradient, *others = self._pool.map(backward, range(len(shares)))
        for other in others:
            gradient += other
        return loss, gradient

    def apply_gradient(self, gradient: Tensor) -> None:
        """Clips and applies `gradient`. One that is not finite is refused: the weights stay as they are."""
        norm = clip_by_norm(gradient, self._config.gradient_norm or math.inf)
        finite = math.isfinite(norm)
        if finite:
            self._master.apply(gradient, learning_rate(self._config, self._annealing, self._progress.counts))
            if self.weights.buffers:
                running = self.weights.running
                self._master.vector[running] = self.weights.vector[running]
        self._progress.update(applied=finite)
        self._refused = 0 if finite else self._refused + 1
        if finite:
            return
        why = self._too_large()
        self._progress.tell_once({"skipped updates": f"an update was skipped: its gradient is not finite{why}"})
        if self._refused == _PATIENCE:
            advice = why or ". A smaller learner.learning_rate or loss.reward_scale may help"
            raise TroupeError(
                f"learning diverged: {_PATIENCE} gradients in a row were not finite; the weights are those before"
                f"{advice}"
            )

    def _too_large(self) -> str:
        """Whether the rewards last learned from are the reason why a gradient is not finite, and what to do."""
        scaled, raw = self._judged
        if bool((scaled.abs() < _LARGEST_REWARD).all()):
            return ""
        return (
            f": rewards reach {np.abs(raw).max():g}, and those learned from must stay below {_LARGEST_REWARD:g}; "
            "set loss.normalize_reward true, or a smaller loss.reward_scale"
        )

    def close(self) -> None:
        self._pool.close()

    def state(self) -> dict[str, Any]:
        lately = self._lately and self._lately.state()
        return {"rng": self._rng.bit_generator.state, "refused": self._refused, "lately": lately}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._rng.bit_generator.state, self._refused = state["rng"], state["refused"]
        if self._lately and state.get("lately"):
            self._lately.restore(state["lately"])

    def _minibatches(self, batch: Rollout, bonus: Bonus | None) -> Iterator[tuple[Rollout, Bonus | None]]:
        environments = batch.reward.shape[1]
        parts = min(self._config.minibatches, environments)
        if parts == 1:
            yield batch, bonus
            return
        for chosen in np.array_split(self._rng.permutation(environments), parts):
            yield columns(batch, chosen), bonus and bonus.columns(torch.from_numpy(chosen))


def _learned(heads: Heads) -> list[Tensor]:
    """What gradients come from: all but the mask."""
    return [heads.parameters, heads.value, *(() if heads.bonus_value is None else (heads.bonus_value,))]


def _joined(masks: list[Tensor | None]) -> Tensor | None:
    there = [mask for mask in masks if mask is not None]
    return torch.cat(there, 1) if there else None


def to_batch(rollout: Rollout, rewards: Rewards, device: torch.device) -> Batch:
    """The tensors a loss reads. A row's discount is gamma^horizon, or 0 where the episode terminated."""
    terminated = rollout.terminated | rollout.life_lost
    discount = np.where(terminated, 0.0, rewards.gamma**rollout.horizon).astype(np.float32)
    trace = (~(terminated | rollout.truncated)).astype(np.float32)
    return Batch(
        action=_to(device, rollout.action),
        behaviour_log_prob=_to(device, rollout.behaviour_log_prob),
        reward=_to(device, rewards.of(rollout.reward)),
        discount=_to(device, discount),
        trace=_to(device, trace),
        valid=_to(device, rollout.valid),
    )


def _to(device: torch.device, array: np.ndarray) -> Tensor:
    """Without waiting for the copy: what computes with it on the device comes after it there."""
    return torch.from_numpy(array).to(device, non_blocking=True)
