"""What all parts of a run have done together, and where their time went."""

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from troupe.runtime.rollout import Rollout


@dataclass(frozen=True, slots=True)
class Episode:
    """One finished training episode: its raw return and its length in steps."""

    total: float
    length: int


@dataclass(slots=True)
class Counts:
    """Steps are environment steps that a learner has used; `played` also counts those still under way."""

    steps: int = 0
    played: int = 0
    episodes: int = 0
    updates: int = 0
    skipped_updates: int = 0


class Progress:
    """Counters shared by all threads of a run."""

    def __init__(self, counts: Counts | None = None):
        self.counts = counts or Counts()
        self.recent: deque[Episode] = deque(maxlen=100)
        self._ended: list[Episode] = []
        self._lag_steps, self._lag_sum, self._lag_max = 0, 0, 0
        self._lock = threading.Lock()

    def play(self, steps: int, episodes: Sequence[Episode] = ()) -> None:
        """An actor has made `steps` steps, in which `episodes` ended."""
        with self._lock:
            self.counts.played += steps
            self.counts.episodes += len(episodes)
            self.recent.extend(episodes)
            self._ended.extend(episodes)

    def consume(self, rollouts: Sequence[Rollout], version: int) -> None:
        """A learner has taken `rollouts`, in this order, while `version` was the newest policy."""
        with self._lock:
            for rollout in rollouts:
                steps, lag = rollout.steps, version - int(rollout.policy_version[0])
                self.counts.steps += steps
                self._lag_steps += steps
                self._lag_sum += lag * steps
                self._lag_max = max(self._lag_max, lag)

    def update(self, *, applied: bool) -> None:
        with self._lock:
            self.counts.updates += applied
            self.counts.skipped_updates += not applied

    def take_episodes(self) -> list[Episode]:
        """The episodes that ended since the last call."""
        with self._lock:
            ended, self._ended = self._ended, []
            return ended

    def take_lag(self) -> tuple[float, int]:
        """Mean and maximum policy lag, by step, since the last call."""
        with self._lock:
            taken = self._lag_sum / max(self._lag_steps, 1), self._lag_max
            self._lag_steps, self._lag_sum, self._lag_max = 0, 0, 0
            return taken


class Stopwatch:
    """Seconds by stage: `lap(stage)` gives the time since the last lap to `stage`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now


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
