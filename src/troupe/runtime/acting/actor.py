"""The actor: environments and inference on one side, rollouts on the other."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from troupe.environments.actions import Actions
from troupe.environments.stepping.vector import VectorEnvironment
from troupe.networks.recurrent import RecurrentState
from troupe.runtime.acting.inference import Inference, LocalInference
from troupe.runtime.data.rollout import Rollout
from troupe.runtime.execution.gate import Retired
from troupe.runtime.progress import Episode, Progress, Stopwatch


class Group(NamedTuple):
    """A batch of an actor's environments, and its columns in the actor's rollouts."""

    environment: VectorEnvironment
    columns: slice


class Actor:
    """Plays B environments and writes what happens into rollouts.

    Groups of environments take turns: while one group steps, the actions of the next are computed
    (double-buffered sampling, Petrenko et al. 2020, section 3.1). The two overlap only where environments step in
    threads of their own (a native batch).

    `pulse[0]` is the time (time.monotonic) at which the environment was called or one of a batch last returned, 0 while
    no call is under way; the actor's owner detects hangs by it. With `gamma` the actor records the past returns by
    which rewards are normalised. `states` is for a recurrent policy. An actor that is `alone` in its process can
    distinguish waiting from computing inside its environment. With `restarts`, an environment that raises is made anew
    up to so many times in the run, and its episode is dropped (`_drop`).
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
        states: "StateTracker | None" = None,
        *,
        alone: bool = False,
        restarts: int | None = None,
    ):
        self._inference, self._epsilon = inference, epsilon
        self._progress, self._pulse = progress, pulse
        self._retired, self._seeds = False, seeds
        self._groups = _groups(environments)
        self._restarts = restarts
        self._dropped: set[tuple[int, int]] = set()  # the last rows of episodes that were dropped, and their columns
        self._take_over()
        each = seeds.spawn(len(environments)) if len(environments) > 1 else [seeds]
        with self._asking():
            self._obs = np.concatenate([one.reset(seed) for one, seed in zip(environments, each, strict=True)])
        count = len(self._obs)
        self._first = np.ones(count, np.bool_)
        self._ended = np.zeros(count, np.bool_)  # environments whose next step is a reset row
        self._episodes = EpisodeCounter(count)
        self._past = PastReturn(count, gamma) if gamma is not None else None
        self._states = states
        self.watch = inference.watch = Stopwatch()
        self._alone = alone

    def collect(self, rollout: Rollout) -> None:
        """Fills `rollout` in place, with one version of the weights if the actor has a copy of its own.

        Raises Closed once the run stops, EnvironmentFailed where an environment breaks its contract.
        """
        version, played = self._inference.refresh(), self._progress.counts.played
        rollout.pulls = [(version, played)]
        epsilon = self._epsilon(played)
        rollout.obs[0], rollout.first[0] = self._obs, self._first
        if self._states:
            self._states.begin(rollout)
        steps = len(rollout.action)
        for t in range(steps + 1):
            for group in self._groups:
                if t > 0:
                    self._receive(group, rollout, t - 1)
                if t < steps:
                    self._send(group, rollout, t, epsilon)
        self._obs, self._first = rollout.obs[-1].copy(), rollout.first[-1].copy()
        if self._past is not None:
            self._past.write(rollout)
        if self._states:
            self._states.end(rollout)
        self._progress.play(rollout.steps, self._episodes.count(rollout, self._dropped), float(rollout.reward.sum()))
        self._dropped.clear()
        self._progress.metrics.add({"epsilon": epsilon}, rollout.steps)
        for group in self._groups:
            self._progress.notice_once(group.environment.notices)

    def _send(self, group: Group, rollout: Rollout, t: int, epsilon: float) -> None:
        """Computes the actions of step t and begins the step."""
        environment, columns = group
        self.watch.start("delay")
        environment.delay()
        self.watch.start("act")
        state = self._states.before(rollout, t, columns) if self._states else None
        output = self._inference.act(rollout.obs[t, columns], epsilon, state)
        if self._states:
            assert output.next_state is not None
            self._states.update(output.next_state, columns)
        rollout.action[t, columns] = output.action
        rollout.behaviour_log_prob[t, columns] = output.log_prob
        rollout.policy_version[t, columns] = output.version
        environment.send(output.action)
        self.watch.start("other")

    def _receive(self, group: Group, rollout: Rollout, t: int) -> None:
        """Waits for the end of step t and records it."""
        environment, columns = group
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
        begun = ended | environment.failed
        rollout.valid[t, columns] = ~begun
        rollout.obs[t + 1, columns] = obs
        rollout.first[t + 1, columns] = begun
        if environment.failed.any():
            self._drop(rollout, t, (columns.start + np.flatnonzero(environment.failed & ~ended)).tolist())
        np.logical_or(terminated, truncated, out=ended)

    def _drop(self, rollout: Rollout, t: int, failed: list[int]) -> None:
        """Row t of these environments is that of a reset: their episodes were cut off by the step before, with the last
        observation that there was, and are not reported. At t = 0 the rollout before ends with that observation."""
        if t > 0:
            cut = [column for column in failed if rollout.valid[t - 1, column]]  # or the episode has had no step
            rollout.truncated[t - 1, cut] = True
            self._dropped |= {(t - 1, column) for column in cut}
            return
        self._episodes.forget(failed)
        if self._past is not None:
            self._past.total[failed] = 0.0

    def retire(self) -> None:
        """Another actor has replaced this one: it ends as soon as its environment returns."""
        self._retired = True

    def state(self) -> dict[str, Any] | None:
        """Everything that determines its next actions except the weights; None if its environments cannot be saved."""
        environment = self._groups[0].environment.state() if len(self._groups) == 1 else None
        if environment is None or not isinstance(self._inference, LocalInference):
            return None
        return {
            "obs": self._obs,
            "first": self._first,
            "ended": self._ended.copy(),  # the next rollout writes to it
            "episodes": self._episodes.state(),
            "past": None if self._past is None else self._past.total.copy(),
            "memory": self._states and self._states.state(),
            "inference": self._inference.state(),
            "environment": environment,
        }

    def restore(self, state: Mapping[str, Any]) -> list[str]:
        """Restores `state`; returns a notice if environments could not be restored."""
        assert isinstance(self._inference, LocalInference)
        self._inference.restore(state["inference"])
        self._episodes.restore(state["episodes"])
        if self._past is not None:
            self._past.total = restored(state["past"], self._past.total)
        if self._states:
            self._states.restore(state["memory"])
        self._obs = restored(state["obs"], self._obs)
        self._first, self._ended = restored(state["first"], self._first), restored(state["ended"], self._ended)
        (group,) = self._groups
        diverged = group.environment.restore(state["environment"], self._obs)
        if not diverged:
            return []
        self._first[diverged], self._ended[diverged] = True, False
        self._episodes.forget(diverged)
        if self._past is not None:
            self._past.total[diverged] = 0.0
        return [
            f"{len(diverged)} of {group.environment.count} environments did not reach the same state when their "
            "episodes were replayed with the same seeds and actions; these begin new episodes, so the run differs from "
            "one without a stop (docs/reproducibility.md)"
        ]

    def lend(self) -> VectorEnvironment:
        """Its environments, for an evaluation between two rollouts; `begin_anew` afterwards."""
        (group,) = self._groups
        return group.environment

    def begin_anew(self) -> None:
        """Begins new episodes in environments that were lent."""
        (group,) = self._groups
        self._take_over()
        with self._asking():
            self._obs = group.environment.reset(self._seeds.spawn(1)[0]).copy()
        self._first[:], self._ended[:] = True, False
        self._episodes.forget(list(range(len(self._obs))))
        if self._past is not None:
            self._past.total[:] = 0.0

    def close(self) -> None:
        for group in self._groups:
            group.environment.close()

    def _take_over(self) -> None:
        """From now on the environments report to this actor."""
        for group in self._groups:
            group.environment.answer_to(self._pulse)
            if self._restarts is not None:
                group.environment.restart_failed(partial(self._progress.fail, most=self._restarts))

    @contextmanager
    def _asking(self) -> Iterator[None]:
        self._pulse[0] = time.monotonic()
        yield
        self._pulse[0] = 0.0
        if self._retired:
            raise Retired


def _groups(environments: Sequence[VectorEnvironment]) -> list[Group]:
    ends = np.cumsum([environment.count for environment in environments]).tolist()
    return [Group(each, slice(end - each.count, end)) for each, end in zip(environments, ends, strict=True)]


def restored(saved: Any, ours: np.ndarray) -> np.ndarray:
    """A copy of the saved array, in the place of `ours`. Raises ValueError if it is not alike."""
    if not isinstance(saved, np.ndarray) or (saved.shape, saved.dtype) != (ours.shape, ours.dtype):
        raise ValueError(f"an array {ours.dtype} {list(ours.shape)} is expected, not {saved!r:.60}")
    return saved.copy()


class EpisodeCounter:
    """Raw return and length of every episode, across rollouts."""

    def __init__(self, environments: int):
        self._total = np.zeros(environments)
        self._length = np.zeros(environments, np.int64)

    def count(self, rollout: Rollout, dropped: Collection[tuple[int, int]] = ()) -> list[Episode]:
        """The episodes that end in `rollout`, in the order of their last steps, but those whose last step is `dropped`,
        as (row, column)."""
        ended = rollout.terminated | rollout.truncated
        episodes, begin = [], 0
        for t in np.flatnonzero(ended.any(1)).tolist():
            self._add(rollout, slice(begin, t + 1))
            over = np.flatnonzero(ended[t]).tolist()
            episodes += [Episode(float(self._total[b]), int(self._length[b])) for b in over if (t, b) not in dropped]
            self.forget(over)
            begin = t + 1
        self._add(rollout, slice(begin, None))
        return episodes

    def _add(self, rollout: Rollout, rows: slice) -> None:
        self._total += rollout.reward[rows].sum(0)
        self._length += rollout.valid[rows].sum(0)

    def forget(self, environments: list[int]) -> None:
        """Starts from zero for these environments."""
        self._total[environments], self._length[environments] = 0.0, 0

    def state(self) -> dict[str, np.ndarray]:
        return {"total": self._total.copy(), "length": self._length.copy()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        self._total, self._length = restored(state["total"], self._total), restored(state["length"], self._length)


class PastReturn:
    """The discounted sum of an episode's rewards up to each step, across rollouts.

    Rewards are divided by its standard deviation (Engstrom et al. 2020, Implementation matters, section 3).
    """

    def __init__(self, environments: int, gamma: float):
        self.total, self._gamma = np.zeros(environments), gamma

    def write(self, rollout: Rollout) -> None:
        ended = rollout.terminated | rollout.truncated
        for t, reward in enumerate(rollout.reward):
            self.total = self._gamma * self.total + reward
            rollout.past_return[t] = self.total
            self.total[ended[t]] = 0.0


class StateTracker:
    """The recurrent state of an actor's environments, from step to step and from rollout to rollout.

    It is never cleared: where an episode begins, `first` makes the network ignore it.
    """

    def __init__(self, environments: int, size: int, actions: Actions):
        self._state = np.zeros((environments, size), np.float32)
        self._action = np.zeros((environments, *actions.shape), actions.dtype)
        self._reward = np.zeros(environments, np.float32)

    def begin(self, rollout: Rollout) -> None:
        """Writes the initial state, from which a learner unrolls."""
        rollout.initial_state[:] = self._state
        rollout.initial_action[:], rollout.initial_reward[:] = self._action, self._reward

    def before(self, rollout: Rollout, t: int, columns: slice) -> RecurrentState:
        """What the policy reads with the observations of row t."""
        actions = rollout.action[t - 1] if t else rollout.initial_action
        rewards = rollout.reward[t - 1] if t else rollout.initial_reward
        last = actions[columns], rewards[columns].astype(np.float32)
        return RecurrentState(*map(torch.from_numpy, (self._state[columns], rollout.first[t, columns], *last)))

    def update(self, next_state: np.ndarray, columns: slice) -> None:
        self._state[columns] = next_state

    def end(self, rollout: Rollout) -> None:
        self._action[:], self._reward[:] = rollout.action[-1], rollout.reward[-1]

    def state(self) -> dict[str, np.ndarray]:
        return {"state": self._state.copy(), "action": self._action.copy(), "reward": self._reward.copy()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._state[:], self._action[:], self._reward[:] = state["state"], state["action"], state["reward"]
