"""Detects that a run has collapsed: it has lost what it had learned, and does not recover."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from troupe.runs.store.state import SavedLevel, SavedScore, SavedWatch

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


class _Level:
    """The first and the best score of one kind of return."""

    def __init__(self) -> None:
        self.first: Score | None = None
        self.best: Score | None = None  # with the highest lower bound, as the best weights are chosen

    def see(self, score: Score) -> None:
        if self.first is None:
            self.first = score
        if self.best is None or score.lower >= self.best.lower:
            self.best = score

    def has_lost(self, loss: float, score: Score) -> bool:
        """Whether `score` lacks more than the fraction `loss` of what was gained, and more than noise explains."""
        if self.first is None or self.best is None:
            return False
        gain = self.best.mean - self.first.mean
        return (
            self.best.is_clearly_above(self.first)
            and self.best.is_clearly_above(score)
            and self.best.mean - score.mean > loss * gain
        )

    def state(self) -> SavedLevel:
        return SavedLevel(*(SavedScore(each.mean, each.error) if each else None for each in (self.first, self.best)))

    def restore(self, state: SavedLevel) -> None:
        self.first, self.best = (Score(each.mean, each.error) if each else None for each in (state.first, state.best))


class CollapseWatch:
    """Detects a collapse in the evaluations of a run.

    Rewards may have any scale and sign, so a fall is measured against what was gained, best - first. An
    evaluation has fallen if it lacks more than the fraction `loss` of that, and more than the noise of the
    two scores explains; so many `evaluations` in a row are a collapse. Where the best is not clearly above
    the first, nothing has been learned yet that could be lost.

    Where the return of the latest training episodes is known as well, it must have fallen in the same way by then: an
    evaluated policy may swing between good and bad while the sampled one steadily improves, and then nothing is lost.
    """

    def __init__(self, loss: float, evaluations: int):
        self._loss, self._evaluations = loss, evaluations
        self._evaluated, self._training = _Level(), _Level()
        self._fallen = 0  # evaluations in a row
        self._reported = False  # the collapse that they are part of

    @property
    def first(self) -> Score | None:
        """The score at the start."""
        return self._evaluated.first

    @property
    def best(self) -> Score | None:
        return self._evaluated.best

    def begin(self, training: Score) -> None:
        """The score that the run began at, if it is known before the first evaluation."""
        if self._evaluated.first is None:
            self._evaluated.first = self._training.first = training

    def see(self, score: Score, training: Score | None = None) -> bool:
        """Adds an evaluation; returns whether it completes a collapse. One that has not fallen ends a collapse."""
        self._evaluated.see(score)
        if training is not None:
            self._training.see(training)
        if not self._evaluated.has_lost(self._loss, score):
            self.reset()
            return False
        self._fallen += 1
        confirmed = training is None or self._training.has_lost(self._loss, training)
        if self._reported or self._fallen < self._evaluations or not confirmed:
            return False
        self._reported = True
        return True

    def reset(self) -> None:
        """Starts again after a rollback: the next collapse takes as many evaluations as the first."""
        self._fallen, self._reported = 0, False

    def report_again(self) -> None:
        """A collapse that has been reported may be reported again by the next evaluation."""
        self._fallen, self._reported = min(self._fallen, self._evaluations - 1), False

    def state(self) -> SavedWatch:
        level = self._evaluated.state()
        return SavedWatch(level.first, level.best, self._fallen, self._training.state(), self._reported)

    def restore(self, state: SavedWatch) -> None:
        self._evaluated.restore(SavedLevel(state.first, state.best))
        self._training.restore(state.training)
        self._fallen = state.fallen
        self._reported = self._fallen >= self._evaluations if state.told is None else state.told
