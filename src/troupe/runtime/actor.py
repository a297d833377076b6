"""The actor: environments and inference on one side, rollouts on the other."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from troupe.algorithm.losses import Metrics
from troupe.environments.vector import VectorEnvironment
from troupe.runtime.gate import Retired
from troupe.runtime.inference import Inference, LocalInference
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

    def state(self) -> dict[str, Any] | None:
        """All that decides what it does next, but for the weights; None where its environments cannot be saved."""
        environment = self._environment.state()
        if environment is None or not isinstance(self._inference, LocalInference):
            return None
        return {
            "obs": self._obs,
            "first": self._first,
            "ended": self._ended,
            "episodes": self._episodes.state(),
            "inference": self._inference.state(),
            "environment": environment,
        }

    def restore(self, state: Mapping[str, Any]) -> list[str]:
        """Goes back to a state of before; says which environments would not."""
        assert isinstance(self._inference, LocalInference)
        self._inference.restore(state["inference"])
        self._episodes.restore(state["episodes"])
        self._obs, self._first, self._ended = (state[name].copy() for name in ("obs", "first", "ended"))
        strayed = self._environment.restore(state["environment"], self._obs)
        if not strayed:
            return []
        self._first[strayed], self._ended[strayed] = True, False
        self._episodes.forget(strayed)
        return [
            f"{len(strayed)} of {self._environment.count} environments came out elsewhere when their episodes were "
            "played again with the same seeds and actions; these begin new ones, and the run is not what it would "
            "have been without a stop (docs/reproducibility.md)"
        ]

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

    def forget(self, environments: list[int]) -> None:
        """What these have gathered belongs to no episode any more."""
        self._total[environments], self._length[environments] = 0.0, 0

    def state(self) -> dict[str, np.ndarray]:
        return {"total": self._total.copy(), "length": self._length.copy()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        self._total, self._length = state["total"].copy(), state["length"].copy()
