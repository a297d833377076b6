"""What is learned: a loss with its settings, what is made of rewards for it, and how its entropy bonus decays."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from troupe.algorithm import losses
from troupe.algorithm.losses import LossOutput
from troupe.algorithm.schedules import CONSTANT, LinearSchedule, linear_decay
from troupe.config import Loss, UsageError

LossFunction = Callable[..., LossOutput]  # of Outputs and Batch
LOSSES: Mapping[str, LossFunction] = {"a3c": losses.a3c, "impala": losses.impala, "appo": losses.appo}


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
    """A loss of (outputs, batch, **keywords), and what it is computed with."""

    loss: LossFunction
    rewards: Rewards
    entropy_coefficient: float = 0.0
    entropy_decay: LinearSchedule = CONSTANT
    averages_advantages: bool = False  # whether the loss takes an AdvantageEMA

    @classmethod
    def of(cls, config: Loss) -> "Objective":
        rewards = Rewards(config.gamma, config.reward_scale, config.reward_clip, config.normalize_reward)
        decay = linear_decay(config.entropy_anneal_steps) if config.entropy_anneal_steps else CONSTANT
        loss = build_loss(config)
        return cls(loss, rewards, config.entropy_coefficient, decay, "advantage_ema" in _keywords(loss))

    def keywords(self, steps: int) -> dict[str, Any]:
        """The keywords of the loss that change with the steps of the run."""
        if self.entropy_decay is CONSTANT:
            return {}
        return {"entropy_coefficient": self.entropy_coefficient * self.entropy_decay(steps)}


def build_loss(config: Loss) -> LossFunction:
    """The loss with those settings that it takes. Raises UsageError where there is no such loss."""
    if config.kind not in LOSSES:
        raise UsageError(f"loss.kind = '{config.kind}': no such loss (there are {', '.join(LOSSES)})")
    loss = LOSSES[config.kind]
    settings = {name: getattr(config, name) for name in _keywords(loss) if hasattr(config, name)}
    return partial(loss, **settings)


def _keywords(loss: LossFunction) -> list[str]:
    return [each.name for each in inspect.signature(loss).parameters.values() if each.kind is each.KEYWORD_ONLY]
