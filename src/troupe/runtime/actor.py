"""The actor: environments and inference on one side, rollouts on the other."""

from collections.abc import Callable

import numpy as np

from troupe.environments.vector import VectorEnvironment
from troupe.runtime.gate import Gate
from troupe.runtime.inference import LocalInference
from troupe.runtime.progress import Episode, Progress, Stopwatch
from troupe.runtime.rollout import Rollout


class Actor:
    """Plays B environments with the weights it last pulled and writes what happens into rollouts."""

    def __init__(
        self,
        environment: VectorEnvironment,
        inference: LocalInference,
        epsilon: Callable[[int], float],
        progress: Progress,
        gate: Gate,
        seeds: np.random.SeedSequence,
    ):
        self._environment, self._inference, self._epsilon = environment, inference, epsilon
        self._progress, self._gate = progress, gate
        self._obs = environment.reset(seeds).copy()
        self._first = np.ones(environment.count, np.bool_)
        self._ended = np.zeros(environment.count, np.bool_)  # the next step of these is their reset row
        self._episodes = EpisodeCounter(environment.count)
        self.watch = Stopwatch()

    def collect(self, rollout: Rollout) -> None:
        """Fills `rollout` in place, all of it with one version of the weights.

        Raises Closed as soon as the run has been told to stop, EnvironmentFailed when it must.
        """
        rollout.policy_version[:] = self._inference.refresh()
        epsilon = self._epsilon(self._progress.counts.played)
        rollout.obs[0], rollout.first[0] = self._obs, self._first
        for t in range(len(rollout.action)):
            self._environment.delay()
            self.watch.lap("wait")
            with self._gate.turn():
                action, log_prob = self._inference.act(rollout.obs[t], epsilon)
                self.watch.lap("act")
            obs, reward, terminated, truncated = self._environment.step(action)
            self.watch.lap("env")
            rollout.action[t] = action
            rollout.behaviour_log_prob[t] = log_prob
            rollout.reward[t] = reward  # of action[t], in obs[t]
            rollout.terminated[t] = terminated
            rollout.truncated[t] = truncated
            rollout.valid[t] = ~self._ended
            rollout.obs[t + 1] = obs
            rollout.first[t + 1] = self._ended
            self._ended = terminated | truncated
        self._obs, self._first = rollout.obs[-1].copy(), rollout.first[-1].copy()
        self._progress.play(rollout.steps, self._episodes.count(rollout))

    def close(self) -> None:
        self._environment.close()


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
