"""What is learned: a loss with its settings, what is made of rewards for it, and how its entropy bonus decays."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from troupe.algorithm import losses
from troupe.algorithm.losses import LossOutput
from troupe.algorithm.schedules import CONSTANT, LinearSchedule, linear_decay
from troupe.config import Loss, UsageError
from troupe.user_code.choices import Choice

LossFunction = Callable[..., LossOutput]  # of Outputs and Batch
LOSSES = Choice(
    "loss",
    setting="loss.kind",
    if_changed="the run continues with another loss",
    kwargs="loss.kwargs",
    builtin={"a3c": losses.a3c, "impala": losses.impala, "appo": losses.appo},
    leading=2,  # outputs and batch
    shared=[each.name for each in fields(Loss) if each.name not in ("kind", "kwargs", "reduction")],
    passed=["advantage_ema"],
)


@dataclass(frozen=True)
class Rewards:
    """What is made of rewards for learning, and for learning only."""

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
    """A loss of (outputs, batch, **keywords), which is a mean over the valid rows, and what it is computed with."""

    loss: LossFunction
    rewards: Rewards
    entropy_coefficient: float = 0.0
    entropy_decay: LinearSchedule = CONSTANT
    averages_advantages: bool = False  # whether the loss takes an AdvantageEMA
    reduction: Literal["mean", "sum"] = "mean"  # over the valid rows of a minibatch

    @classmethod
    def of(cls, config: Loss) -> "Objective":
        rewards = Rewards(config.gamma, config.reward_scale, config.reward_clip, config.normalize_reward)
        decay = linear_decay(config.entropy_anneal_steps) if config.entropy_anneal_steps else CONSTANT
        if decay != CONSTANT and not LOSSES.takes(config.kind, "entropy_coefficient"):
            raise UsageError(f"loss.entropy_anneal_steps: loss {config.kind} takes no entropy_coefficient; set it to 0")
        averages = LOSSES.takes(config.kind, "advantage_ema")
        return cls(build_loss(config), rewards, config.entropy_coefficient, decay, averages, config.reduction)

    def keywords(self, steps: int) -> dict[str, Any]:
        """The keywords of the loss that change with the steps of the run."""
        if self.entropy_decay == CONSTANT:
            return {}
        return {"entropy_coefficient": self.entropy_coefficient * self.entropy_decay(steps)}


def build_loss(config: Loss) -> LossFunction:
    """The loss with its settings. Raises UsageError where there is no such loss, or its arguments do not fit."""
    return LOSSES.bind(config.kind, config, config.kwargs)
