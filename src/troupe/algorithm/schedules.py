"""Factors that change with the environment steps of a run, such as the learning rate's."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class LinearSchedule:
    """From `first` at step `begin` linearly to `last` at step `end`; constant before and after."""

    begin: int
    end: int
    first: float
    last: float

    def __call__(self, steps: int) -> float:
        if steps >= self.end:
            return self.last
        share = max(0, steps - self.begin) / max(1, self.end - self.begin)  # of a file, begin may be end
        return self.first + (self.last - self.first) * share


@dataclass(frozen=True)
class ShareSchedule:
    """`factor` of the share of `steps` that is done, from 0 to 1."""

    factor: Callable[[float], float]
    steps: int

    def __call__(self, steps: int) -> float:
        return float(self.factor(min(1.0, steps / self.steps)))


Schedule = LinearSchedule | ShareSchedule
CONSTANT = LinearSchedule(0, 0, 1.0, 1.0)


def linear_decay(steps: int, last: float = 0.0) -> LinearSchedule:
    """From 1 to `last` within `steps`."""
    return LinearSchedule(0, steps, 1.0, last)
