"""How many actors, predictors and learners are at work, the limits of that, and a latch for a common start."""

import threading
from dataclasses import dataclass

from troupe.config import TrainConfig
from troupe.runtime.execution.gate import Closed, Gate

_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class WorkerLimits:
    """The most actors, predictors and learners there can be; the controller stays within these."""

    actors: int
    predictors: int
    learners: int

    @classmethod
    def of(cls, config: TrainConfig) -> "WorkerLimits":
        actors, predictors, learners = config.actor.count, config.inference.predictors, config.learner.count
        if not config.adjust.every_seconds:
            return cls(actors, predictors, learners)
        bounds = config.adjust
        return cls(
            max(actors, bounds.most_actors),
            max(predictors, bounds.most_predictors),
            max(learners, bounds.most_learners),
        )


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
                self._changed.wait(_LOOK_SECONDS)
        if self._gate.stopped:
            raise Closed


class ReadyLatch:
    """Opens when every actor is ready, of the `actors` that start together."""

    def __init__(self, gate: Gate, actors: int):
        self._gate, self._awaited = gate, set(range(actors))
        self._lock, self._open = threading.Lock(), threading.Event()
        if not actors:
            self._open.set()

    @property
    def open(self) -> bool:
        return self._open.is_set()

    def add(self, actor: int) -> None:
        """Actor `actor` is ready; saying so again changes nothing."""
        with self._lock:
            self._awaited.discard(actor)
            if not self._awaited:
                self._open.set()

    def wait_for(self, seconds: float) -> None:
        self._open.wait(seconds)

    def wait(self) -> None:
        """Raises Closed if the run ends before it opens."""
        while not self._open.wait(_LOOK_SECONDS):
            if self._gate.stopped:
                raise Closed
