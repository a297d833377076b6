"""The learner: rollouts -> rewards -> returns -> loss -> gradient -> new weights."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from troupe.algorithm.losses import Batch, Bonus, LossOutput, Outputs
from troupe.algorithm.optimizers import clip_by_norm
from troupe.algorithm.returns import AdvantageEMA
from troupe.algorithm.schedules import CONSTANT, Schedule, linear_decay
from troupe.config import Learner as LearnerConfig
from troupe.config import Loss, TroupeError, UsageError
from troupe.networks.actor_critic import ActorCritic, NetworkOutput, PolicyOutput
from troupe.networks.flat import FlatWeights
from troupe.networks.recurrent import RecurrentState
from troupe.runtime.data.rollout import Rollout, columns
from troupe.runtime.execution.gate import Gate, RemoteGate
from troupe.runtime.learning.curiosity import Curiosity
from troupe.runtime.learning.group import Alone
from troupe.runtime.learning.loss_and_optimizer import LOSSES, LossFunction, build_loss
from troupe.runtime.learning.thread_pool import ThreadPool
from troupe.runtime.learning.weights import HogwildMaster, Master
from troupe.runtime.progress import Counts, Progress, Stopwatch

_LARGEST_REWARD = 1e15  # in float32 the square of a sum of larger ones may be infinite
_PATIENCE = 100  # updates in a row that may be refused before the run is given up


@dataclass(frozen=True)
class Rewards:
    """How rewards are scaled and clipped for learning, and for learning only."""

    gamma: float
    scale: float = 1.0
    clip: float = 0.0  # after scaling; 0 is off
    normalize: bool = False  # whether they are also divided by the running standard deviation of returns

    def of(self, raw: np.ndarray) -> np.ndarray:
        scaled = raw * self.scale
        with np.errstate(over="ignore"):  # infinite ones make a gradient that is refused
            return (scaled.clip(-self.clip, self.clip) if self.clip else scaled).astype(np.float32)


@dataclass(frozen=True)
class Objective:
    """A loss of (outputs, batch, **keywords), which is a mean over the valid rows, with its settings."""

    loss: LossFunction
    rewards: Rewards
    # Keywords of the loss that change with the steps of the run: the setting, and its factor.
    scheduled: Mapping[str, tuple[float, Schedule]] = field(default_factory=dict)
    averages_advantages: bool = False  # whether the loss takes an AdvantageEMA
    reduction: Literal["mean", "sum"] = "mean"  # over the valid rows of a minibatch

    @classmethod
    def of(cls, config: Loss, own: Mapping[str, Schedule] | None = None) -> "Objective":
        """`own` are the user's schedules of settings, by name."""
        rewards = Rewards(config.gamma, config.reward_scale, config.reward_clip, config.normalize_reward)
        anneal = linear_decay(config.entropy_anneal_steps) if config.entropy_anneal_steps else None
        schedules = ({"entropy_coefficient": anneal} if anneal else {}) | dict(own or {})
        for name, schedule in schedules.items():
            if not LOSSES.takes(config.kind, name):
                setting, off = ("loss.entropy_anneal_steps", 0) if schedule is anneal else (f"schedules.{name}", "none")
                raise UsageError(f"{setting}: loss {LOSSES.shown(config.kind)} takes no {name}; set it to {off}")
        averages = LOSSES.takes(config.kind, "advantage_ema")
        scheduled = {name: (getattr(config, name), schedule) for name, schedule in schedules.items()}
        return cls(build_loss(config), rewards, scheduled, averages, config.reduction)

    def keywords(self, steps: int) -> dict[str, Any]:
        """The keywords of the loss that change, after `steps` of the run."""
        return {name: value * schedule(steps) for name, (value, schedule) in self.scheduled.items()}


def learning_rate(config: LearnerConfig, annealing: Schedule, counts: Counts) -> float:
    """Of the next update."""
    rate = config.learning_rate * annealing(counts.steps)
    if config.warmup_updates:
        rate *= min(1.0, (counts.updates + 1) / config.warmup_updates)
    return rate


class Learner:
    """Improves the master's weights, one batch of rollouts at a time, using its own copy of the network."""

    def __init__(
        self,
        network: ActorCritic,
        master: Master | HogwildMaster,
        objective: Objective,
        config: LearnerConfig,
        progress: Progress,
        gate: Gate | RemoteGate,
        rng: np.random.Generator,
        curiosity: Curiosity | None = None,
        annealing: Schedule = CONSTANT,  # of the learning rate
        group: Alone = Alone(),  # noqa: B008  # it has no state
    ):
        self._network, self.weights = network, FlatWeights(network)
        self._master, self._objective, self._config = master, objective, config
        self._progress, self._gate, self._rng = progress, gate, rng
        self._rewards, self._device = objective.rewards, self.weights.vector.device
        self.curiosity, self._annealing = curiosity, annealing
        self._group = group
        averaged = (config.advantage_decay or group.size > 1) and objective.averages_advantages
        ema = AdvantageEMA.start(config.advantage_decay, self._device) if averaged else None
        self._advantage_ema = ema and group.joined(ema)
        self._pool = ThreadPool(max(1, config.threads))
        self._refused = 0
        self._last_rewards = torch.zeros(0), np.zeros(0)  # of the last loss: those learned from, and the raw ones
        self.watch = Stopwatch()

    def learn(self, batch: Rollout) -> None:
        """Makes all updates of one batch, then publishes the weights.

        A rollback that another learner's batch causes ends them: nothing collected before it is learned from.
        """
        assert isinstance(self._master, Master)  # a hogwild worker calls the single steps itself
        self.watch.start("learn")
        if self._master.statistics:
            with self._gate.turn(self.watch):
                self.observe(batch, self._group.rank)
        for minibatch, bonus in self.minibatches(batch):
            with self._gate.turn(self.watch):
                self._master.copy_to(self.weights.vector)
                gradient = self.compute_gradient(minibatch, bonus)
                with self._master.lock:
                    if batch.oldest < self._master.oldest:
                        break
                    self.apply_gradient(gradient)
        else:
            self._master.publish()
        self.watch.start("other")

    def minibatches(self, batch: Rollout) -> Iterator[tuple[Rollout, Bonus | None]]:
        """The batch once for every epoch, split by whole environments in a new random order."""
        bonus, environments = self._bonus(batch), batch.reward.shape[1]
        parts = min(self._config.minibatches, environments)
        for _ in range(self._config.epochs):
            if parts == 1:
                yield batch, bonus
                continue
            for chosen in np.array_split(self._rng.permutation(environments), parts):
                yield columns(batch, chosen), bonus and bonus.columns(torch.from_numpy(chosen))

    def observe(self, batch: Rollout, writer: int = 0) -> None:
        """Adds a batch to the statistics by which observations and rewards are normalised."""
        rows = batch.valid
        numbers = None
        if self._network.normalizer is not None and rows.any():  # short rollouts may be reset rows and nothing else
            numbers = self._network.normalizer_input(_to(self._device, batch.obs[:-1][rows]))
        return_std = self._master.observe(numbers, torch.from_numpy(batch.past_return[rows]), writer)
        if self._rewards.normalize:
            self._rewards = replace(self._rewards, scale=self._objective.rewards.scale / return_std)

    def _bonus(self, batch: Rollout) -> Bonus | None:
        """Computed once for the whole batch, before any epoch: its predictor is trained on the batch, too."""
        if self.curiosity is None:
            return None
        with self._gate.turn(self.watch):
            return self.curiosity.bonus(batch)

    def compute_gradient(self, rollout: Rollout, bonus: Bonus | None = None) -> Tensor:
        """The gradient of the loss on `rollout`, and on those of the other learners of its group, at the weights this
        learner holds."""
        obs = _to(self._device, rollout.obs)
        state = rollout.recurrent_state().to(self._device) if self._network.state_size else None
        with self._train_mode():
            if self._pool.size == 1:
                loss = self._compute_loss(self._network(obs, state), rollout, bonus)
                gradient = self.weights.gradient(loss)
            else:
                loss, gradient = self._sharded_gradient(obs, state, rollout, bonus)
        # 0 * loss is NaN where the loss is not finite; so is the gradient then, and it will be refused.
        gradient.add_(0.0 * loss.detach())
        if self._group.size == 1:
            return gradient
        self.watch.start("average")
        sums = self._objective.reduction == "sum"
        whole = self._group.total(gradient) if sums else self._group.mean(gradient, rollout.steps)
        self.watch.start("learn")
        return whole

    @contextmanager
    def _train_mode(self) -> Iterator[None]:
        """Train mode for a user's network: dropout is on, with this learner's random stream, and batch normalisation
        uses the batch. Everywhere else networks are in eval mode."""
        if not self._network.has_user_modules:
            yield
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(self._rng.integers(2**63)))
            self._network.train()
            try:
                yield
            finally:
                self._network.eval()

    def _compute_loss(self, output: PolicyOutput, rollout: Rollout, bonus: Bonus | None) -> Tensor:
        outputs = Outputs(output.distribution[: len(rollout.action)], output.value, output.bonus_value)
        batch = to_batch(rollout, self._rewards, self._device)._replace(bonus=bonus)
        self._last_rewards = batch.reward, rollout.reward
        keywords = self._objective.keywords(self._progress.counts.steps)
        if self._advantage_ema:
            keywords["advantage_ema"] = self._advantage_ema
        loss, metrics, self._advantage_ema = LossOutput(*self._objective.loss(outputs, batch, **keywords))
        self._progress.metrics.add(metrics, rollout.steps)
        return loss * batch.valid.sum() if self._objective.reduction == "sum" else loss

    def _sharded_gradient(
        self, obs: Tensor, state: RecurrentState | None, rollout: Rollout, bonus: Bonus | None
    ) -> tuple[Tensor, Tensor]:
        """Loss and gradient, with the passes through the network sharded by environments.

        The loss is one, of all environments: its gradient with respect to the network's outputs goes back through
        each shard's pass, and the sum over the shards is the whole gradient.
        """
        environments = obs.shape[1]
        ends = np.linspace(0, environments, min(self._pool.size, environments) + 1).astype(int)
        shares = [slice(*ends) for ends in pairwise(ends.tolist())]

        def forward(share: slice) -> NetworkOutput:
            return self._network.raw_output(obs[:, share], state and state.columns(share))

        outputs = self._pool.map(forward, shares)
        mask, heads = _joined([each.mask for each in outputs]), [_learned(each) for each in outputs]
        whole = [torch.cat([head.detach() for head in parts], 1).requires_grad_() for parts in zip(*heads, strict=True)]
        output = self._network.policy(NetworkOutput(whole[0], whole[1], mask, *whole[2:]))
        loss = self._compute_loss(output, rollout, bonus)
        gradients = torch.autograd.grad(loss, whole, materialize_grads=True)

        def backward(number: int) -> Tensor:
            share = shares[number]
            # As a scalar: with a gradient for each output torch would import its compiler, which takes seconds.
            parts = [(head * of_head[:, share]).sum() for head, of_head in zip(heads[number], gradients, strict=True)]
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
                self._master.vector[running] = self._group.mean(self.weights.vector[running], 1)
            self._progress.metrics.add({"gradient_norm": norm}, 1)
        self._progress.update(applied=finite)
        self._refused = 0 if finite else self._refused + 1
        if finite:
            return
        why = self._too_large()
        self._progress.notice_once({"skipped updates": f"an update was skipped: its gradient is not finite{why}"})
        if self._refused == _PATIENCE:
            advice = why or ". A smaller learner.learning_rate or loss.reward_scale may help"
            raise TroupeError(
                f"learning diverged: {_PATIENCE} gradients in a row were not finite; the weights are those before"
                f"{advice}"
            )

    def _too_large(self) -> str:
        """Whether the rewards last learned from are the reason why a gradient is not finite, and what to do."""
        scaled, raw = self._last_rewards
        if bool((scaled.abs() < _LARGEST_REWARD).all()):
            return ""
        return (
            f": rewards reach {np.abs(raw).max():g}, and those learned from must stay below {_LARGEST_REWARD:g}; "
            "set loss.normalize_reward true, or a smaller loss.reward_scale"
        )

    def close(self) -> None:
        self._pool.close()

    def state(self) -> dict[str, Any]:
        ema = self._advantage_ema
        lately = [float(each) for each in ema[1:]] if isinstance(ema, AdvantageEMA) else None
        return {"rng": self._rng.bit_generator.state, "refused": self._refused, "lately": lately}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._rng.bit_generator.state, self._refused = state["rng"], state["refused"]
        if isinstance(self._advantage_ema, AdvantageEMA) and state.get("lately"):
            saved = torch.tensor(state["lately"], dtype=torch.float64, device=self._device)
            self._advantage_ema = AdvantageEMA(self._advantage_ema.decay, *saved)


def _learned(heads: NetworkOutput) -> list[Tensor]:
    """The outputs that gradients flow through: all but the mask."""
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
    """Does not wait for the copy: operations on the device run after it."""
    return torch.from_numpy(array).to(device, non_blocking=True)
