"""Turns what a run counts into rows of metrics: speeds, shares of time, the bottleneck."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from troupe.runs.store.metrics import Row
from troupe.runtime.metric_means import means_of
from troupe.runtime.progress import PAUSE, PREEMPTED, WAIT, Stopwatch
from troupe.runtime.topologies import Topology

_SHORTEST_SECONDS = 0.02  # the last report may come right after the one before: too soon to measure a speed
_MOSTLY = 1 / 2  # of the time: a part that waits longer than this for others is not the bottleneck
_LEARNED = (  # in every report; None without an update since the last, and clip_fraction where the loss clips no ratio
    "policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction", "explained_variance", "gradient_norm",
)  # fmt: skip
_FEWEST_BATCHES, _LONGEST_SECONDS = 4, 5.0  # a speed is measured over so many batches, or after so long


class Reporter:
    """Turns what a run has counted into rows, each about the time since the one before."""

    def __init__(self, topology: Topology, seconds: float):
        self._topology = topology
        self._seconds = seconds
        self._steps, self._updates = topology.progress.counts.steps, topology.progress.counts.updates
        self._version, self._episodes = topology.master.version, topology.progress.counts.episodes
        self._laps: dict[Stopwatch, dict[str, float]] = {}
        self._spent: dict[str, dict[str, float]] = {}  # by part and stage, since the beginning
        self._spent_before: dict[str, dict[str, float]] = {}  # at the last measurement of pace
        self._shares: dict[str, dict[str, float]] = {}
        self._pace: Row = {"steps_per_s": None, "updates_per_s": None, "bottleneck": ""}
        self._lag: tuple[float | None, int | None] = None, None
        self._per_1000_steps: float | None = None
        self._learned: dict[str, float | None] = {**dict.fromkeys(_LEARNED), "epsilon": 0.0}

    def begin(self) -> None:
        """Called when the clock starts: the time before, in which actor processes were started, does not count."""
        self._read_watches()
        self._spent.clear()

    def report(self, seconds: float) -> Row:
        """`seconds` is the training clock's time."""
        topology, counts = self._topology, self._topology.progress.counts
        episodes = topology.progress.take_episodes()
        totals = [episode.total for episode in episodes]
        self._episodes += len(episodes)  # those that the returns below are of: actors go on meanwhile
        recent = topology.progress.recent_returns()
        self._lag = topology.progress.take_lag() or self._lag  # stays what it was until a batch is learned from
        reward, steps = topology.progress.take_reward()
        if steps:
            self._per_1000_steps = _rounded(1000 * reward / steps)
        epsilon = {"epsilon": self._learned["epsilon"]}  # stays what it was until there are new steps
        self._learned = dict.fromkeys(self._learned) | epsilon | means_of(topology.progress.metrics.take())
        self._read_watches()
        if self._is_time(seconds - self._seconds):
            self._pace = self._speeds(seconds - self._seconds) | self._measure_shares()
            self._seconds, self._steps, self._updates = seconds, counts.steps, counts.updates
            self._version = topology.master.version
            self._spent_before = {part: spent.copy() for part, spent in self._spent.items()}
        elif self._pace["steps_per_s"] is None:  # the first is measured later: so far, since the beginning
            self._pace |= self._measure_shares()
            if topology.master.version == self._version:  # all of it is the way to the first batch
                self._pace["bottleneck"] = ""
        return {
            "kind": "report",
            "wall": time.time(),
            "seconds": seconds,
            "steps": counts.steps,
            "episodes": self._episodes,
            "return_mean": _rounded(np.mean(totals)) if totals else None,
            "return_min": min(totals, default=None),
            "return_max": max(totals, default=None),
            "recent_return": _rounded(np.mean(recent)) if recent else None,
            "return_per_1000_steps": self._per_1000_steps,
            "length_mean": _rounded(np.mean([episode.length for episode in episodes])) if episodes else None,
            "updates": counts.updates,
            "skipped_updates": counts.skipped_updates,
            "learning_rate": topology.learning_rate,
            "queue_depth": topology.queue.depth,
            "queue_capacity": topology.queue.capacity,
            "lag_mean": self._lag[0],
            "lag_max": self._lag[1],
            "numbers": dict(topology.workers.current),
            "stale": counts.stale,
            "restarts": counts.restarts,
            "failures": counts.failures,
            **({"hosts": topology.cluster.take_row()} if topology.cluster else {}),
            **self._learned,
            "stage_seconds": {part: _rounded_all(spent) for part, spent in self._spent.items()},
            **self._pace,
        }

    def _is_time(self, elapsed: float) -> bool:
        batches = self._topology.master.version - self._version
        return elapsed >= (_SHORTEST_SECONDS if batches >= _FEWEST_BATCHES else _LONGEST_SECONDS)

    def _speeds(self, elapsed: float) -> Row:
        """Since the last measurement."""
        counts = self._topology.progress.counts
        return {
            "steps_per_s": (counts.steps - self._steps) / elapsed,
            "updates_per_s": (counts.updates - self._updates) / elapsed,
        }

    def _measure_shares(self) -> Row:
        """Shares of time since the last measurement."""
        for part, spent in self._spent.items():
            before = self._spent_before.get(part, {})
            new = {stage: seconds - before.get(stage, 0.0) for stage, seconds in spent.items()}
            if sum(new.values()) > 0 or part not in self._shares:
                self._shares[part] = shares_of(new)
        return {"shares": self._shares.copy(), "bottleneck": bottleneck(self._shares)}

    def _read_watches(self) -> None:
        """Adds up the time that each kind of part has spent, without pauses. Actors in processes report theirs with
        each rollout, so there may be nothing new."""
        for part, those in self._topology.watches().items():
            for watch in those:
                spent = self._spent.setdefault(part, {})
                before, now = self._laps.get(watch, {}), watch.seconds
                self._laps[watch] = now
                for stage in now.keys() - {PAUSE}:
                    new = now[stage] - before.get(stage, 0.0)
                    spent[stage] = spent.get(stage, 0.0) + max(0.0, new)


def shares_of(seconds: Mapping[str, float]) -> dict[str, float]:
    whole = sum(seconds.values()) or 1.0
    return {stage: _rounded(spent / whole) for stage, spent in seconds.items()}


def bottleneck(shares: Mapping[str, Mapping[str, float]]) -> str:
    """What holds the others up, as "part: stage": the largest stage of the part that waits least for others.

    `shares` are of each part's time, by stage. Waiting for something other than another part (`env_wait`: the
    environment waits for its simulator or device; `delay`: env.delay_seconds; `turn`: only one thread computes at a
    time) is a stage like computing: no other part could shorten it. "nothing" if every part waits for another most of
    the time; "" as long as that part's stages are not known. Time in which no core is free is not a stage.
    """
    waits = {part: stages.get(WAIT, 0.0) for part, stages in shares.items() if stages}
    if not waits:
        return ""
    part = min(waits, key=lambda name: waits[name])
    if waits[part] > _MOSTLY:
        return "nothing" if all(shares.values()) else ""  # a part that has not reported yet may be the one
    stages = {stage: share for stage, share in shares[part].items() if stage not in (WAIT, PREEMPTED, "other")}
    return f"{part}: {max(stages, key=lambda stage: stages[stage])}" if stages else ""


def _rounded_all(values: Mapping[str, float]) -> dict[str, float]:
    return {name: _rounded(value) for name, value in values.items()}


def _rounded(value: Any) -> float:
    return round(float(value), 4)
