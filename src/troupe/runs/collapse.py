"""When a run has collapsed: what it had learned is lost, and stays lost."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

_SURE = 2.0  # standard errors


@dataclass(frozen=True)
class Score:
    """A mean return, and the standard error of that mean."""

    mean: float
    error: float

    @classmethod
    def of(cls, returns: np.ndarray) -> Self:
        return cls(float(returns.mean()), float(returns.std()) / math.sqrt(len(returns)))

    @property
    def lower(self) -> float:
        return self.mean - _SURE * self.error

    def is_clearly_above(self, other: "Score") -> bool:
        """Whether the means differ by more than their noise."""
        return self.mean - other.mean > _SURE * math.hypot(self.error, other.error)


class CollapseWatch:
    """Sees the scores of a run one after another, and says when they have collapsed.

    Rewards may have any scale and sign, so a fall is measured against what was gained, best - first. A
    score has fallen where it lacks more than the fraction `loss` of that, and more than the noise of the
    two scores explains; so many `evaluations` in a row are a collapse. Where the best is not clearly above
    the first, nothing has been learned yet that could be lost.
    """

    def __init__(self, loss: float, evaluations: int):
        self._loss, self._evaluations = loss, evaluations
        self.first: Score | None = None  # what the run began at
        self.best: Score | None = None  # with the highest lower bound, as the best weights are chosen
        self._fallen = 0  # scores in a row

    def begin(self, score: Score) -> None:
        """What the run began at, if that is known before the first evaluation; else it is that."""
        if self.first is None:
            self.first = score

    def see(self, score: Score) -> bool:
        """Takes the next score; true where it makes a collapse. One that has not fallen ends the collapse."""
        self.begin(score)
        if self.best is None or score.lower >= self.best.lower:
            self.best = score
        self._fallen = self._fallen + 1 if self._has_fallen(score) else 0
        return self._fallen == self._evaluations

    def forgive(self) -> None:
        """The collapse has been answered: another is as many scores away as the first was."""
        self._fallen = 0

    def reconsider(self) -> None:
        """A collapse that was told of before is one anew if the next score says so."""
        self._fallen = min(self._fallen, self._evaluations - 1)

    def state(self) -> dict[str, Any]:
        return {
            "first": self.first and asdict(self.first),
            "best": self.best and asdict(self.best),
            "fallen": self._fallen,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.first, self.best = (state[name] and Score(**state[name]) for name in ("first", "best"))
        self._fallen = state["fallen"]

    def _has_fallen(self, score: Score) -> bool:
        assert self.first is not None
        assert self.best is not None
        gain = self.best.mean - self.first.mean
        return (
            self.best.is_clearly_above(self.first)
            and self.best.is_clearly_above(score)
            and self.best.mean - score.mean > self._loss * gain
        )
