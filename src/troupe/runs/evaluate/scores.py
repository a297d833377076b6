"""Returns and lengths of an evaluation's episodes."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float


@dataclass(frozen=True, repr=False)
class Scores:
    """Raw returns and lengths, one of each for every episode."""

    returns: np.ndarray
    lengths: np.ndarray
    greedy: bool = True  # or sampled actions
    cut_off: int = 0  # episodes that had not ended after evaluation.max_steps
    unfinished: int = 0  # episodes that had not ended when the time was over
    asked: int = 0  # the number of episodes asked for, if the time was over first

    @property
    def mean(self) -> float:
        return float(self.returns.mean())

    @property
    def std(self) -> float:
        return float(self.returns.std())

    @property
    def lower(self) -> float:
        """Two standard errors below the mean, which a few lucky episodes do not raise."""
        return self.lower_of(len(self.returns))

    def lower_of(self, episodes: int) -> float:
        """The `lower` to expect from so many episodes."""
        return self.mean - 2 * self.std / math.sqrt(episodes)

    @property
    def remarks(self) -> str:
        return remarks(self.cut_off, self.unfinished)

    def __repr__(self) -> str:
        """The figures of `summary` that tell anything; `returns` and `lengths` have those of each episode."""
        figures = {name: value for name, value in self.summary().items() if value or name == "mean_return"}
        return f"Scores({', '.join(f'{name}={value:.6g}' for name, value in figures.items())}, greedy={self.greedy})"

    def summary(self) -> dict[str, float]:
        return {
            "episodes": len(self.returns),
            "mean_return": self.mean,
            "std_return": self.std,
            "min_return": float(self.returns.min()),
            "max_return": float(self.returns.max()),
            "mean_length": float(self.lengths.mean()),
            "cut_off": self.cut_off,
            "unfinished": self.unfinished,
        }


def remarks(cut_off: int, unfinished: int) -> str:
    """ ", 3 of them cut off, 2 of them unfinished", or nothing."""
    counts = {"cut off": cut_off, "unfinished": unfinished}
    return "".join(f", {count} of them {what}" for what, count in counts.items() if count)


class _Episode(NamedTuple):
    environment: int
    total: float
    length: int
    cut: bool = False  # after evaluation.max_steps
    unfinished: bool = False


class Tally:
    """Counts the episodes of an evaluation: each environment plays a share fixed beforehand.

    A batch can be reset only as a whole, so an environment whose episode is cut off after `max_steps` waits for the
    end of the round, until every other has played its share or waits as well.
    """

    def __init__(self, environments: int, episodes: int, max_steps: int):
        self._asked, self._max_steps = episodes, max_steps
        self._left = np.full(environments, episodes // environments)
        self._left[: episodes % environments] += 1
        self._episodes: list[_Episode] = []

    @property
    def is_complete(self) -> bool:
        return not self._left.any()

    @property
    def returns(self) -> list[float]:
        """Of the episodes counted so far."""
        return [each.total for each in self._episodes]

    @property
    def round_is_over(self) -> bool:
        return not self._playing.any()

    def begin_round(self) -> None:
        """All environments have been reset."""
        self._playing = self._left > 0
        self._total, self._length = np.zeros(len(self._left)), np.zeros(len(self._left), np.int64)

    def add(
        self, reward: Float[np.ndarray, " B"], reset: Bool[np.ndarray, " B"], ended: Bool[np.ndarray, " B"]
    ) -> None:
        """Adds a step of all environments; where `reset` is true, it was not a step but the reset after an end."""
        self._total += reward
        self._length += ~reset
        cut = ~ended & (self._length >= self._max_steps)
        over = ended | cut
        if over.any():
            counts = over & self._playing
            self._episodes += [each._replace(cut=bool(cut[each.environment])) for each in self._current(counts)]
            self._left[counts] -= 1
            self._playing &= ~cut & (self._left > 0)
            self._total[over], self._length[over] = 0.0, 0

    def drop(self, which: Bool[np.ndarray, " B"]) -> None:
        """The current episodes of these environments do not count; each plays another instead."""
        self._total[which], self._length[which] = 0.0, 0

    def scores(self, *, greedy: bool) -> Scores:
        return _scores(self._episodes, greedy)

    def scores_so_far(self, *, greedy: bool) -> Scores:
        """The scores of the rounds that every environment has completed, so that short episodes are not favoured;
        before the first round is complete, those of each environment's first episode, finished or not."""
        played = np.bincount([each.environment for each in self._episodes], minlength=len(self._left))
        unfinished = self._left > 0
        whole = int(played[unfinished].min(initial=self._asked))
        everything = self._episodes
        if whole == 0:
            unfinished &= played == 0
            everything = everything + [each._replace(unfinished=True) for each in self._current(unfinished)]
            whole = 1
        seen = [0] * len(self._left)
        kept = []
        for each in everything:
            seen[each.environment] += 1
            if seen[each.environment] <= whole:
                kept.append(each)
        return _scores(kept, greedy, self._asked)

    def _current(self, which: Bool[np.ndarray, " B"]) -> list[_Episode]:
        return [
            _Episode(number, float(self._total[number]), int(self._length[number]))
            for number in np.flatnonzero(which).tolist()
        ]


def _scores(episodes: list[_Episode], greedy: bool, asked: int = 0) -> Scores:
    returns, lengths = np.array([each.total for each in episodes]), np.array([each.length for each in episodes])
    cut, unfinished = (sum(getattr(each, name) for each in episodes) for name in ("cut", "unfinished"))
    return Scores(returns, lengths, greedy, cut, unfinished, asked)
