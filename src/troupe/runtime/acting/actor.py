"""The actor: environments and inference on one side, rollouts on the other."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from troupe.environments.stepping.vector import VectorEnvironment
from troupe.runtime.acting.inference import Decision, Inference, LocalInference
from troupe.runtime.acting.recurrent_state import Recall
from troupe.runtime.data.rollout import Rollout
from troupe.runtime.execution.gate import Retired
from troupe.runtime.progress import Episode, Progress, Stopwatch


class Part(NamedTuple):
    """Some of an actor's environments, and their columns in its rollouts."""

    environment: VectorEnvironment
    columns: slice


class Actor:
    """Plays B environments and writes what happens into rollouts.

    The environments come in parts that take turns: while one part steps, the actions of the next are
    computed (double-buffered sampling, Petrenko et al. 2020, section 3.1). Where environments step in
    threads of their own (a native batch), the two overlap; elsewhere one part is as good.

    `pulse[0]` is the moment (time.monotonic) since which the environment has not answered, 0 while it
    is not asked: whoever owns the actor sees there that it hangs. Each answer of one environment of a batch
    renews it. With `gamma` it writes down the past returns that rewards are normalised by. `recall` is what a
    policy with memory remembers of them. An actor that is `alone` in its process can tell how long its
    environment waits for something rather than computes.
    """

    def __init__(
        self,
        environments: Sequence[VectorEnvironment],
        inference: Inference,
        epsilon: Callable[[int], float],
        progress: Progress,
        seeds: np.random.SeedSequence,
        pulse: np.ndarray,
        gamma: float | None = None,
        recall: Recall | None = None,
        *,
        alone: bool = False,
    ):
        self._inference, self._epsilon = inference, epsilon
        self._progress, self._pulse = progress, pulse
        self._retired, self._seeds = False, seeds
        self._parts = _parts(environments)
        for part in environments:
            part.answer_to(pulse)
        each = seeds.spawn(len(environments)) if len(environments) > 1 else [seeds]
        with self._asking():
            self._obs = np.concatenate([part.reset(seed) for part, seed in zip(environments, each, strict=True)])
        count = len(self._obs)
        self._first = np.ones(count, np.bool_)
        self._ended = np.zeros(count, np.bool_)  # the next step of these is their reset row
        self._episodes = EpisodeCounter(count)
        self._past = PastReturn(count, gamma) if gamma is not None else None
        self._recall = recall
        self.watch = inference.watch = Stopwatch()
        self._alone = alone

    def collect(self, rollout: Rollout) -> None:
        """Fills `rollout` in place, all of it with one version of the weights where they are the actor's own.

        Raises Closed as soon as the run has been told to stop, EnvironmentFailed when it must.
        """
        version, played = self._inference.refresh(), self._progress.counts.played
        rollout.pulls = [(version, played)]
        epsilon = self._epsilon(played)
        rollout.obs[0], rollout.first[0] = self._obs, self._first
        if self._recall:
            self._recall.begin(rollout)
        steps = len(rollout.action)
        for t in range(steps + 1):
            for part in self._parts:
                if t > 0:
                    self._receive(part, rollout, t - 1)
                if t < steps:
                    self._send(part, rollout, t, epsilon)
        self._obs, self._first = rollout.obs[-1].copy(), rollout.first[-1].copy()
        if self._past is not None:
            self._past.write(rollout)
        if self._recall:
            self._recall.end(rollout)
        self._progress.play(rollout.steps, self._episodes.count(rollout), float(rollout.reward.sum(dtype=np.float64)))
        self._progress.metrics.add({"epsilon": epsilon}, rollout.steps)
        for part in self._parts:
            self._progress.tell_once(part.environment.notices)

    def _send(self, part: Part, rollout: Rollout, t: int, epsilon: float) -> None:
        """Has the actions of step t computed and begins the step."""
        environment, columns = part
        self.watch.start("delay")
        environment.delay()
        self.watch.start("act")
        decision = self._decide(rollout, t, columns, epsilon)
        rollout.action[t, columns] = decision.action
        rollout.behaviour_log_prob[t, columns] = decision.log_prob
        rollout.policy_version[t, columns] = decision.version
        environment.send(decision.action)
        self.watch.start("other")

    def _decide(self, rollout: Rollout, t: int, columns: slice, epsilon: float) -> Decision:
        obs = rollout.obs[t, columns]
        if self._recall is None:
            return self._inference.act(obs, epsilon)
        decision = self._inference.act(obs, epsilon, self._recall.before(rollout, t, columns))
        assert decision.state is not None
        self._recall.keep(decision.state, columns)
        return decision

    def _receive(self, part: Part, rollout: Rollout, t: int) -> None:
        """Waits for step t and writes down what came of it."""
        environment, columns = part
        ended = self._ended[columns]
        self.watch.start("env")
        computed = time.process_time() if self._alone else 0.0
        with self._asking():
            obs, reward, terminated, truncated, life_lost = environment.receive()
        computed = time.process_time() - computed
        spent = self.watch.start("other")
        if self._alone:
            self.watch.move(max(0.0, spent - computed), "env", "env_wait")
        rollout.reward[t, columns] = reward  # of action[t], in obs[t]
        rollout.terminated[t, columns] = terminated
        rollout.truncated[t, columns] = truncated
        rollout.life_lost[t, columns] = life_lost
        rollout.valid[t, columns] = ~ended
        rollout.obs[t + 1, columns] = obs
        rollout.first[t + 1, columns] = ended
        np.logical_or(terminated, truncated, out=ended)

    def retire(self) -> None:
        """Another plays in its place: it is to end as soon as its environment lets it."""
        self._retired = True

    def state(self) -> dict[str, Any] | None:
        """All that decides what it does next, but for the weights; None where its environments cannot be saved."""
        environment = self._parts[0].environment.state() if len(self._parts) == 1 else None
        if environment is None or not isinstance(self._inference, LocalInference):
            return None
        return {
            "obs": self._obs,
            "first": self._first,
            "ended": self._ended.copy(),  # it is written to while the next rollout is played
            "episodes": self._episodes.state(),
            "past": None if self._past is None else self._past.total.copy(),
            "memory": self._recall and self._recall.state(),
            "inference": self._inference.state(),
            "environment": environment,
        }

    def restore(self, state: Mapping[str, Any]) -> list[str]:
        """Goes back to a state of before; says which environments would not."""
        assert isinstance(self._inference, LocalInference)
        self._inference.restore(state["inference"])
        self._episodes.restore(state["episodes"])
        if self._past is not None:
            self._past.total = state["past"].copy()
        if self._recall:
            self._recall.restore(state["memory"])
        self._obs, self._first, self._ended = (state[name].copy() for name in ("obs", "first", "ended"))
        (part,) = self._parts
        strayed = part.environment.restore(state["environment"], self._obs)
        if not strayed:
            return []
        self._first[strayed], self._ended[strayed] = True, False
        self._episodes.forget(strayed)
        if self._past is not None:
            self._past.total[strayed] = 0.0
        return [
            f"{len(strayed)} of {part.environment.count} environments came out elsewhere when their episodes were "
            "played again with the same seeds and actions; these begin new ones, and the run is not what it would "
            "have been without a stop (docs/reproducibility.md)"
        ]

    def lend(self) -> VectorEnvironment:
        """Its environments, for somebody else to play in between two rollouts; then `begin_anew`."""
        (part,) = self._parts
        return part.environment

    def begin_anew(self) -> None:
        """Begins new episodes: the environments are elsewhere than it left them."""
        (part,) = self._parts
        part.environment.answer_to(self._pulse)
        with self._asking():
            self._obs = part.environment.reset(self._seeds.spawn(1)[0]).copy()
        self._first[:], self._ended[:] = True, False
        everywhere = list(range(len(self._obs)))
        self._episodes.forget(everywhere)
        if self._past is not None:
            self._past.total[:] = 0.0

    def close(self) -> None:
        for part in self._parts:
            part.environment.close()

    @contextmanager
    def _asking(self) -> Iterator[None]:
        self._pulse[0] = time.monotonic()
        yield
        self._pulse[0] = 0.0
        if self._retired:
            raise Retired


def _parts(environments: Sequence[VectorEnvironment]) -> list[Part]:
    ends = np.cumsum([environment.count for environment in environments]).tolist()
    return [Part(each, slice(end - each.count, end)) for each, end in zip(environments, ends, strict=True)]


class EpisodeCounter:
    """Raw return and length of every episode, across the seams between rollouts."""

    def __init__(self, environments: int):
        self._total = np.zeros(environments)
        self._length = np.zeros(environments, np.int64)

    def count(self, rollout: Rollout) -> list[Episode]:
        """The episodes that end in `rollout`, in the order of their last steps."""
        ended = rollout.terminated | rollout.truncated
        episodes, begin = [], 0
        for t in np.flatnonzero(ended.any(1)).tolist():
            self._add(rollout, slice(begin, t + 1))
            over = np.flatnonzero(ended[t]).tolist()
            episodes += [Episode(float(self._total[b]), int(self._length[b])) for b in over]
            self.forget(over)
            begin = t + 1
        self._add(rollout, slice(begin, None))
        return episodes

    def _add(self, rollout: Rollout, rows: slice) -> None:
        self._total += rollout.reward[rows].sum(0)
        self._length += rollout.valid[rows].sum(0)

    def forget(self, environments: list[int]) -> None:
        """What these have gathered belongs to no episode any more."""
        self._total[environments], self._length[environments] = 0.0, 0

    def state(self) -> dict[str, np.ndarray]:
        return {"total": self._total.copy(), "length": self._length.copy()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        self._total, self._length = state["total"].copy(), state["length"].copy()


class PastReturn:
    """The discounted sum of an episode's rewards up to each step, across the seams between rollouts.

    Its deviation is the unit that rewards are divided by: Engstrom et al. 2020, Implementation matters, section 3.
    """

    def __init__(self, environments: int, gamma: float):
        self.total, self._gamma = np.zeros(environments), gamma

    def write(self, rollout: Rollout) -> None:
        ended = rollout.terminated | rollout.truncated
        for t, reward in enumerate(rollout.reward):
            self.total = self._gamma * self.total + reward
            rollout.past_return[t] = self.total
            self.total[ended[t]] = 0.0
