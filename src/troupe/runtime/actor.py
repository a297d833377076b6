"""The actor: environments and inference on one side, rollouts on the other."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from troupe.algorithm.losses import Metrics
from troupe.environments.vector import VectorEnvironment
from troupe.runtime.gate import Retired
from troupe.runtime.inference import Inference
from troupe.runtime.progress import Episode, Progress, Stopwatch
from troupe.runtime.rollout import Rollout


class Actor:
    """Plays B environments and writes what happens into rollouts.

    `pulse[0]` is the moment (time.monotonic) since which the environment has not answered, 0 while it
    is not asked: whoever owns the actor sees there that it hangs.
    """

    def __init__(
        self,
        environment: VectorEnvironment,
        inference: Inference,
        epsilon: Callable[[int], float],
        progress: Progress,
        seeds: np.random.SeedSequence,
        pulse: np.ndarray,
    ):
        self._environment, self._inference, self._epsilon = environment, inference, epsilon
        self._progress, self._pulse = progress, pulse
        self._retired = False
        with self._asking():
            self._obs = environment.reset(seeds).copy()
        self._first = np.ones(environment.count, np.bool_)
        self._ended = np.zeros(environment.count, np.bool_)  # the next step of these is their reset row
        self._episodes = EpisodeCounter(environment.count)
        self.watch = Stopwatch()

    def collect(self, rollout: Rollout) -> None:
        """Fills `rollout` in place, all of it with one version of the weights where they are the actor's own.

        Raises Closed as soon as the run has been told to stop, EnvironmentFailed when it must.
        """
        version, played = self._inference.refresh(), self._progress.counts.played
        rollout.pulls = [(version, played)]
        epsilon = self._epsilon(played)
        rollout.obs[0], rollout.first[0] = self._obs, self._first
        for t in range(len(rollout.action)):
            self._environment.delay()
            self.watch.lap("wait")
            action, log_prob, version = self._inference.act(rollout.obs[t], epsilon)
            self.watch.lap("act")
            with self._asking():
                obs, reward, terminated, truncated = self._environment.step(action)
            self.watch.lap("env")
            rollout.action[t] = action
            rollout.behaviour_log_prob[t] = log_prob
            rollout.policy_version[t] = version
            rollout.reward[t] = reward  # of action[t], in obs[t]
            rollout.terminated[t] = terminated
            rollout.truncated[t] = truncated
            rollout.valid[t] = ~self._ended
            rollout.obs[t + 1] = obs
            rollout.first[t + 1] = self._ended
            self._ended = terminated | truncated
        self._obs, self._first = rollout.obs[-1].copy(), rollout.first[-1].copy()
        self._progress.play(rollout.steps, self._episodes.count(rollout))

    @property
    def metrics(self) -> Metrics:
        """What was learned with: nothing here, an actor only plays."""
        return {}

    def retire(self) -> None:
        """Another plays in its place: it is to end as soon as its environment lets it."""
        self._retired = True

    def close(self) -> None:
        self._environment.close()

    @contextmanager
    def _asking(self) -> Iterator[None]:
        self._pulse[0] = time.monotonic()
        yield
        self._pulse[0] = 0.0
        if self._retired:
            raise Retired


class EpisodeCounter:
    """Raw return and length of every episode, across the seams between rollouts."""

    def __init__(self, environments: int):
        self._total = np.zeros(environments)
        self._length = np.zeros(environments, np.int64)

    def count(self, rollout: Rollout) -> list[Episode]:
        """The episodes that end in `rollout`, in the order of their last steps."""
        ended = rollout.terminated | rollout.truncated
        if not ended.any():
            self._total += rollout.reward.sum(0)
            self._length += rollout.valid.sum(0)
            return []
        totals = self._total + np.cumsum(rollout.reward, axis=0, dtype=np.float64)
        lengths = self._length + np.cumsum(rollout.valid, axis=0)
        episodes = []
        for t, b in np.argwhere(ended):
            episodes.append(Episode(float(totals[t, b]), int(lengths[t, b])))
            totals[t:, b] -= totals[t, b]
            lengths[t:, b] -= lengths[t, b]
        self._total, self._length = totals[-1], lengths[-1]
        return episodes
