"""The article's sliding window: n-step samples (s, a, R, s_n, mask), one for every step.

A sample is a rollout of one row whose reward is the discounted sum R and whose horizon is the number
of steps it spans, so that its discount is gamma^horizon and the ordinary learner serves.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from troupe.runtime.acting.actor import Actor
from troupe.runtime.data.rollout import ROWS, Rollout, stack
from troupe.runtime.progress import Stopwatch


class NStepSample(NamedTuple):
    """R = `total`, the discounted rewards from the step `start` to the step `last`, both included."""

    start: Rollout
    last: Rollout
    total: float
    horizon: int


class NStepWindow:
    """The last n steps of one environment, and their discounted sum, updated incrementally.

    The article subtracts the oldest reward and divides by gamma, which magnifies rounding errors by
    1 / gamma at every step, so that in a long episode the sum drifts. Here the sum has two parts that
    are only added to, at the same cost per step: for each of the oldest rows, R up to the last of these
    rows, computed once in n steps; and R of the rows that follow.
    """

    def __init__(self, steps: int, gamma: float):
        self._steps, self._gamma = steps, gamma
        self._rows: deque[Rollout] = deque()
        self._heads: list[float] = []  # r_i + gamma r_{i+1} + ... of the oldest rows, the very oldest last
        self._tail = 0.0  # the same for all rows after those

    def push(self, row: Rollout) -> Iterator[NStepSample]:
        """Adds one step (a rollout with T = B = 1); yields the samples that it completes.

        At an episode's end the window is emptied, each sample over the horizon that is left. The
        article divides as if there were always n steps, which is wrong for the last n - 1 of an episode.
        """
        if not row.valid[0, 0]:
            last = self._rows[-1] if self._rows else row
            while self._rows:  # the environment failed: the step before was the episode's last
                yield self._pop(last)
            return
        self._tail += self._gamma ** (len(self._rows) - len(self._heads)) * float(row.reward[0, 0])
        self._rows.append(row)
        if row.terminated[0, 0] or row.truncated[0, 0] or row.life_lost[0, 0]:
            while self._rows:
                yield self._pop(row)
        elif len(self._rows) == self._steps:
            yield self._pop(row)

    def state(self, number: Mapping[int, int]) -> dict[str, Any]:
        """`number` gives a row's number by its id."""
        rows = [number[id(row)] for row in self._rows]
        return {"rows": rows, "heads": list(self._heads), "tail": self._tail}

    def restore(self, state: Mapping[str, Any], rows: Sequence[Rollout]) -> None:
        self._rows = deque(rows[number] for number in state["rows"])
        self._heads, self._tail = list(state["heads"]), state["tail"]

    def clear(self) -> None:
        """Forgets an episode that does not continue."""
        self._rows.clear()
        self._heads, self._tail = [], 0.0

    def _pop(self, last: Rollout) -> NStepSample:
        if not self._heads:  # the tail becomes the heads
            following = 0.0
            for row in reversed(self._rows):
                following = float(row.reward[0, 0]) + self._gamma * following
                self._heads.append(following)
            self._tail = 0.0
        total = self._heads[-1] + self._gamma ** len(self._heads) * self._tail
        horizon = len(self._rows)
        self._heads.pop()
        return NStepSample(self._rows.popleft(), last, total, horizon)


class NStepActor:
    """An actor with one environment whose steps pass through a window: `collect` gives one sample.

    `rows` are rollouts of one step, at least one more than the window holds; they are used in turn.
    """

    def __init__(self, actor: Actor, window: NStepWindow, rows: Sequence[Rollout]):
        self._actor, self._window = actor, window
        self._rows, self._next = rows, 0
        self._ready: deque[NStepSample] = deque()
        self._pulls: list[tuple[int, int]] = []  # of the rows since the last sample

    @property
    def watch(self) -> Stopwatch:
        return self._actor.watch

    def retire(self) -> None:
        self._actor.retire()

    def collect(self, rollout: Rollout) -> None:
        while not self._ready:
            row = self._rows[self._next]
            self._next = (self._next + 1) % len(self._rows)
            self._actor.collect(row)
            self._pulls += row.pulls
            self._ready.extend(self._window.push(row))
        write_sample(self._ready.popleft(), rollout)
        rollout.pulls, self._pulls = self._pulls, []

    def state(self) -> dict[str, Any] | None:
        """The actor's, with all rows, and which of them are in the window and in samples not returned yet."""
        state = self._actor.state()
        if state is None:
            return None
        number = {id(row): i for i, row in enumerate(self._rows)}
        rows = stack(self._rows)
        return state | {
            "rows": {name: getattr(rows, name) for name in ROWS},
            "next": self._next,
            "window": self._window.state(number),
            "ready": [
                [number[id(each.start)], number[id(each.last)], each.total, each.horizon] for each in self._ready
            ],
        }

    def restore(self, state: Mapping[str, Any]) -> list[str]:
        for i, row in enumerate(self._rows):
            for name, kept in state["rows"].items():  # runs of earlier versions lack some
                getattr(row, name)[...] = kept[:, [i]]
        self._next = state["next"]
        self._window.restore(state["window"], self._rows)
        self._ready = deque(
            NStepSample(self._rows[start], self._rows[last], total, horizon)
            for start, last, total, horizon in state["ready"]
        )
        notices = self._actor.restore(state)
        if notices:
            self._window.clear()
        return notices

    def close(self) -> None:
        self._actor.close()


def write_sample(sample: NStepSample, rollout: Rollout) -> None:
    """A sample as a rollout of one row: from `start`, with what followed `last`."""
    start, last = sample.start, sample.last
    rollout.obs[0], rollout.obs[1] = start.obs[0], last.obs[1]
    rollout.first[0], rollout.first[1] = start.first[0], last.first[1]
    rollout.action[:] = start.action
    rollout.behaviour_log_prob[:] = start.behaviour_log_prob
    rollout.reward[:] = sample.total
    rollout.terminated[:] = last.terminated
    rollout.truncated[:] = last.truncated
    rollout.life_lost[:] = last.life_lost
    rollout.horizon[:] = sample.horizon
    rollout.policy_version[:] = start.policy_version
    rollout.past_return[:] = start.past_return
