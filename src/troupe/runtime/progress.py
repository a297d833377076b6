"""Counters that all threads of a run share, and stopwatches of where their time goes."""

import os
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

from msgspec import Meta

from troupe.runtime.data.rollout import Rollout
from troupe.runtime.metric_means import MetricMeans, Totals


@dataclass(frozen=True, slots=True)
class Episode:
    """One finished training episode: its raw return and its length in steps."""

    total: float
    length: int


Count = Annotated[int, Meta(ge=0, le=2**53)]  # as it may stand in a file


@dataclass(slots=True)
class Counts:
    """Steps are environment steps that a learner has used; `played` also counts those still under way."""

    steps: Count = 0
    played: Count = 0
    episodes: Count = 0
    updates: Count = 0
    skipped_updates: Count = 0
    stale: Count = 0  # rollouts with more lag than learner.max_lag, or from before a rollback
    restarts: Count = 0  # actors that were replaced
    failures: Count = 0  # environments that raised, and were made anew


@dataclass(slots=True)
class Delta:
    """What an actor in a process has counted since its last rollout: sent to the parent with every rollout."""

    counts: Counts
    episodes: list[Episode]
    lag: "Lag"
    notices: dict[str, str]
    reward: float = 0.0  # of the steps played, summed
    metrics: Totals = field(default_factory=dict)


@dataclass(slots=True)
class Lag:
    """The versions of the weights between acting and learning, by step."""

    steps: int = 0
    total: int = 0
    most: int = 0

    def add(self, other: "Lag") -> None:
        self.steps, self.total = self.steps + other.steps, self.total + other.total
        self.most = max(self.most, other.most)


_FAILURE = "failure"  # what a notice is about
_DROPPED = "an episode is dropped, and its environment made anew (--on-env-error restart)"


class Progress:
    """What a run has counted."""

    def __init__(self, counts: Counts | None = None):
        self.counts = counts or Counts()
        self.recent: deque[Episode] = deque(maxlen=100)
        self.notices: deque[str] = deque()  # shown in every display mode but "silent"
        self.news: deque[str] = deque()  # shown only while progress is
        self.metrics = MetricMeans()
        self._once: dict[str, str] = {}  # the notices of `notice_once`, by what they are about
        self._ended: list[Episode] = []
        self._lag = Lag()
        self._reward, self._reward_steps = 0.0, 0  # since they were last taken
        self._lock = threading.Lock()

    def play(self, steps: int, episodes: Sequence[Episode] = (), reward: float = 0.0) -> None:
        """An actor has made `steps` steps, with rewards of `reward` in all, in which `episodes` ended."""
        with self._lock:
            self._reward, self._reward_steps = self._reward + reward, self._reward_steps + steps
            self.counts.played += steps
            self.counts.episodes += len(episodes)
            self.recent.extend(episodes)
            self._ended.extend(episodes)

    def consume(self, rollouts: Sequence[Rollout], version: int) -> None:
        """A learner has taken `rollouts`, in this order, while `version` was the newest of the weights."""
        lags = [lag_of(rollout, version) for rollout in rollouts]
        with self._lock:
            for lag in lags:
                self.counts.steps += lag.steps
                self._lag.add(lag)

    def stale(self) -> None:
        """A rollout was older than the bound on lag."""
        with self._lock:
            self.counts.stale += 1

    def restart(self, notice: str) -> int:
        """An actor is replaced, for the reason in `notice`; returns how many have been."""
        self.notices.append(notice)
        with self._lock:
            self.counts.restarts += 1
            return self.counts.restarts

    def fail(self, error: str, most: int) -> str:
        """Counts an environment that has raised `error`; returns why it is not made anew, "" unless that makes more
        than `most`."""
        self.notice_once({_FAILURE: f"{_DROPPED}: {error}"})
        with self._lock:
            self.counts.failures += 1
            failures = self.counts.failures
        limit = f"no more environments are made anew: {most} is this run's actor.restarts"
        return limit if failures > most else ""

    @property
    def first_failure(self) -> str:
        """What the first environment that failed raised; "" if none has since the run was begun or resumed."""
        return self._once.get(_FAILURE, "").removeprefix(f"{_DROPPED}: ")

    def notice_once(self, notices: Mapping[str, str]) -> None:
        """Adds the notices whose subjects (the keys) had none yet."""
        if notices.keys() <= self._once.keys():
            return
        with self._lock:
            for about, notice in notices.items():
                if about not in self._once:
                    self._once[about] = notice
                    self.notices.append(notice)

    def take_delta(self, before: Counts) -> Delta:
        """What has been counted since the counts were set to `before`."""
        metrics = self.metrics.take()
        with self._lock:
            counted = Counts(*(getattr(self.counts, name) - getattr(before, name) for name in Counts.__slots__))
            delta = Delta(counted, self._ended, self._lag, self._once, self._reward, metrics)
            self._ended, self._lag, self._reward = [], Lag(), 0.0
        return delta

    def add(self, delta: Delta) -> None:
        with self._lock:
            for name in Counts.__slots__:
                setattr(self.counts, name, getattr(self.counts, name) + getattr(delta.counts, name))
            self.recent.extend(delta.episodes)
            self._ended.extend(delta.episodes)
            self._lag.add(delta.lag)
            self._reward, self._reward_steps = self._reward + delta.reward, self._reward_steps + delta.counts.played
        self.metrics.merge(delta.metrics)
        self.notice_once(delta.notices)

    def update(self, *, applied: bool) -> None:
        with self._lock:
            self.counts.updates += applied
            self.counts.skipped_updates += not applied

    def recent_returns(self) -> list[float]:
        """Of the last hundred episodes, in the order in which they ended."""
        with self._lock:
            recent = self.recent.copy()
        return [episode.total for episode in recent]

    def state(self) -> tuple[Counts, tuple[Episode, ...]]:
        with self._lock:
            return replace(self.counts), tuple(self.recent)

    def restore(self, counts: Counts, recent: Sequence[Episode]) -> None:
        with self._lock:
            self.counts = replace(counts)
            self.recent = deque(recent, maxlen=self.recent.maxlen)

    def take_episodes(self) -> list[Episode]:
        """The episodes that ended since the last call."""
        with self._lock:
            ended, self._ended = self._ended, []
            return ended

    def take_reward(self) -> tuple[float, int]:
        """The rewards since the last call, summed, and the steps that brought them."""
        with self._lock:
            taken = self._reward, self._reward_steps
            self._reward, self._reward_steps = 0.0, 0
            return taken

    def take_lag(self) -> tuple[float, int] | None:
        """Mean and maximum policy lag, by step, since the last call; None if no step was learned from."""
        with self._lock:
            lag, self._lag = self._lag, Lag()
            return (lag.total / lag.steps, lag.most) if lag.steps else None


def lag_of(rollout: Rollout, version: int) -> Lag:
    """The lag of every step of `rollout` while `version` is the newest of the weights."""
    lags = (version - rollout.policy_version)[rollout.valid]
    return Lag(lags.size, int(lags.sum()), int(lags.max(initial=0)))


class Stopwatch:
    """Seconds by stage: from `start(stage)` on, time counts for `stage`. One thread starts stages, any may read.

    The lock keeps a reader from counting a stage twice that ends meanwhile.

    Every worker has the stages WAIT, for other workers; PAUSE, in which all stand still for an evaluation; and
    PREEMPTED, in which the thread could have run, but no core was free: other programs had them, or threads of the run.
    """

    def __init__(self) -> None:
        self.stage = ""  # the current one; time before the first counts for none
        self._spent: dict[str, float] = {}
        self._since, self._preempted = time.perf_counter(), preempted_seconds()
        self._lock = threading.Lock()

    def start(self, stage: str) -> float:
        """Returns the seconds of the stage before, without those in which it was preempted."""
        now = time.perf_counter()
        spent, preempted = now - self._since if self.stage else 0.0, 0.0
        if spent > _LONG_SECONDS:  # reading the preempted seconds costs 6 us: not worth it for shorter stages
            total = preempted_seconds()
            preempted = min(max(total - self._preempted, 0.0), spent)
            spent, self._preempted = spent - preempted, total
        with self._lock:
            if preempted:
                self._count(PREEMPTED, preempted)
            if spent:  # as `_count`, which would cost a call at every step
                self._spent[self.stage] = self._spent.get(self.stage, 0.0) + spent
            self.stage, self._since = stage, now
        return spent

    def move(self, seconds: float, stage: str, to: str) -> None:
        """Counts `seconds` of `stage` for `to` instead."""
        self.add({stage: -seconds, to: seconds})

    @property
    def seconds(self) -> dict[str, float]:
        """Of all stages, including the current one."""
        with self._lock:
            spent, stage, since = self._spent.copy(), self.stage, self._since
        if stage:
            spent[stage] = spent.get(stage, 0.0) + time.perf_counter() - since
        return spent

    def take(self) -> dict[str, float]:
        """The seconds since the last call."""
        self.start(self.stage)
        with self._lock:
            taken, self._spent = self._spent, {}
        return taken

    def add(self, seconds: Mapping[str, float]) -> None:
        """Adds seconds that another stopwatch has measured."""
        with self._lock:
            for stage, spent in seconds.items():
                self._count(stage, spent)

    def _count(self, stage: str, seconds: float) -> None:
        if seconds:
            self._spent[stage] = self._spent.get(stage, 0.0) + seconds


WAIT, PAUSE, PREEMPTED = "wait", "pause", "preempted"
_LONG_SECONDS = 1e-3
_SCHEDULE = "/proc/thread-self/schedstat"


def preempted_seconds() -> float:
    """Seconds in which this thread could have run, but no processor was free; 0 where the system does not count
    them."""
    try:
        # Not by Path, which takes three times as long and lets other threads have the interpreter seven times.
        descriptor = os.open(_SCHEDULE, os.O_RDONLY)
        try:
            return int(os.read(descriptor, 100).split()[1]) * 1e-9
        finally:
            os.close(descriptor)
    except (OSError, IndexError):
        return 0.0


class Clock:
    """Seconds of training: it runs from `start`, and stands still inside `paused`."""

    def __init__(self, seconds: float = 0.0):
        self._before, self._since = seconds, 0.0
        self._running = False
        self._lock = threading.Lock()

    def start(self) -> None:
        with self._lock:
            if not self._running:
                self._since, self._running = time.perf_counter(), True

    def stop(self) -> None:
        with self._lock:
            if self._running:
                self._before += time.perf_counter() - self._since
                self._running = False

    @property
    def seconds(self) -> float:
        with self._lock:
            return self._before + (time.perf_counter() - self._since if self._running else 0.0)
