"""How much each actor explores: its own epsilon, from one schedule over the steps of all."""

import math
from dataclasses import dataclass

import numpy as np

from troupe.config import Exploration, UsageError


@dataclass(frozen=True, slots=True)
class EpsilonSchedule:
    """From `start` to `end` linearly over `steps`, then constant."""

    start: float
    end: float
    steps: int

    def __call__(self, played: int) -> float:
        return self.start + (self.end - self.start) * min(1.0, played / self.steps)


def schedules(config: Exploration, actors: int, rng: np.random.Generator) -> list[EpsilonSchedule]:
    """One schedule for each actor: values dealt out in turn, or drawn from a distribution."""
    starts = _spread(config.epsilon, config.distribution, actors, rng)
    ends = _spread(config.epsilon_end, "listed", actors, rng) if config.epsilon_end else starts
    return [EpsilonSchedule(start, end, config.decay_steps) for start, end in zip(starts, ends, strict=True)]


def _spread(values: tuple[float, ...], distribution: str, actors: int, rng: np.random.Generator) -> list[float]:
    low, high = values[0], values[-1]
    if distribution == "uniform":
        return [float(value) for value in rng.uniform(low, high, actors)]
    if distribution == "loguniform":
        if not (low > 0 and high > 0):
            raise UsageError(f"exploration.epsilon = {low:g}, {high:g}: a loguniform distribution needs values above 0")
        return [math.exp(value) for value in rng.uniform(math.log(low), math.log(high), actors)]
    return [values[i % len(values)] for i in range(actors)]
