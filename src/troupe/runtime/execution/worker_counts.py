"""The numbers of active actors, predictors and learners, their limits, and a latch that opens when actors are ready."""

import threading
from collections.abc import Iterable

from troupe.config import Adjust, TrainConfig
from troupe.runtime.execution.gate import Closed, Gate

_POLL_SECONDS = 0.1


def adjustment_limits(config: Adjust) -> dict[str, int]:
    """The most workers of each kind that the controller tries."""
    return {
        "actors": config.most_actors,
        "predictors": config.most_predictors,
        "learners": config.most_learners,
    }


def worker_limits(config: TrainConfig) -> dict[str, int]:
    """The most workers of each kind that a run can have."""
    counts = {
        "actors": config.actor.count,
        "predictors": config.inference.predictors,
        "learners": config.learner.count,
    }
    if not config.adjust.every_seconds:
        return counts
    return {kind: max(counts[kind], most) for kind, most in adjustment_limits(config.adjust).items()}


class WorkerCounts:
    """Workers of a kind are numbered from 0; those beyond the current count wait."""

    def __init__(self, gate: Gate, actors: int, predictors: int, learners: int):
        self._gate = gate
        self._changed = threading.Condition()
        self.current = {"actors": actors, "predictors": predictors, "learners": learners}

    def set(self, **numbers: int) -> None:
        with self._changed:
            self.current |= numbers
            self._changed.notify_all()

    def wanted(self, kind: str, number: int) -> bool:
        return number < self.current[kind]

    def wait(self, kind: str, number: int) -> None:
        """Returns once worker `number` is wanted; raises Closed at the end of the run."""
        if self.wanted(kind, number) and not self._gate.stopped:
            return
        with self._changed:
            while not self.wanted(kind, number) and not self._gate.stopped:
                self._changed.wait(_POLL_SECONDS)
        if self._gate.stopped:
            raise Closed


class ReadyLatch:
    """Opens when all that start together are ready: the actors of these numbers."""

    def __init__(self, gate: Gate, actors: Iterable[int]):
        self._gate, self._awaited = gate, set(actors)
        self._lock, self._open = threading.Lock(), threading.Event()
        if not self._awaited:
            self._open.set()

    @property
    def open(self) -> bool:
        return self._open.is_set()

    def add(self, actor: int) -> None:
        """Actor `actor` is ready; calling it again changes nothing."""
        with self._lock:
            self._awaited.discard(actor)
            if not self._awaited:
                self._open.set()

    def awaited(self) -> set[int]:
        """Those that are not ready yet."""
        with self._lock:
            return set(self._awaited)

    def wait_for(self, seconds: float) -> None:
        self._open.wait(seconds)

    def wait(self) -> None:
        """Raises Closed if the run ends before it opens."""
        while not self._open.wait(_POLL_SECONDS):
            if self._gate.stopped:
                raise Closed
