"""The article's sliding window: n-step samples (s, a, R, s_n, mask), one for every step.

A sample is a rollout of one row whose reward is the discounted sum R and whose horizon is the number
of steps it spans, so that its discount is gamma^horizon and no learner of its own is needed.
"""

from collections import deque

import numpy as np

from troupe.runtime.actor import Actor
from troupe.runtime.progress import Stopwatch
from troupe.runtime.rollout import Rollout


class Window:
    """The last n steps of one environment, and their discounted sum, kept up incrementally."""

    def __init__(self, steps: int, gamma: float):
        self._steps, self._gamma = steps, gamma
        self._memory: deque[Rollout] = deque()
        self._sum = 0.0  # r_0 + gamma r_1 + ... over what is in the window

    def push(self, row: Rollout) -> list[Rollout]:
        """Takes one step (a rollout with T = B = 1); returns the samples that it completes.

        At an episode's end the window is emptied, each sample over the horizon that is left. The
        article divides as if n steps were always there, which is wrong for the last n - 1 of an episode.
        """
        if not row.valid[0, 0]:
            return []
        self._sum += self._gamma ** len(self._memory) * float(row.reward[0, 0])
        self._memory.append(row)
        samples = []
        if row.terminated[0, 0] or row.truncated[0, 0]:
            while self._memory:
                samples.append(self._emit(row))
            self._sum = 0.0
        elif len(self._memory) == self._steps:
            samples.append(self._emit(row))
        return samples

    def _emit(self, last: Rollout) -> Rollout:
        horizon = len(self._memory)
        start = self._memory.popleft()
        sample = Rollout(
            obs=np.stack((start.obs[0], last.obs[1])),
            first=np.stack((start.first[0], last.first[1])),
            action=start.action,
            behaviour_log_prob=start.behaviour_log_prob,
            reward=np.full((1, 1), self._sum, np.float32),
            terminated=last.terminated,
            truncated=last.truncated,
            valid=start.valid,
            horizon=np.full((1, 1), horizon),
            policy_version=start.policy_version,
        )
        self._sum = (self._sum - float(start.reward[0, 0])) / self._gamma
        return sample


class WindowActor:
    """An actor with one environment whose steps pass through a window: `collect` gives one sample."""

    def __init__(self, actor: Actor, window: Window, scratch: Rollout):
        self._actor, self._window, self._scratch = actor, window, scratch
        self._ready: deque[Rollout] = deque()

    @property
    def watch(self) -> Stopwatch:
        return self._actor.watch

    def collect(self, rollout: Rollout) -> None:
        while not self._ready:
            self._actor.collect(self._scratch)
            self._ready.extend(self._window.push(self._scratch.copy()))
        rollout.assign(self._ready.popleft())

    def close(self) -> None:
        self._actor.close()
