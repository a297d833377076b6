"""The journal of an asynchronous run: what is needed to compute it again bit for bit (`runs/replay.py`).

Actors and learners are deterministic. What differs from run to run is which weights an actor pulls for a rollout, how
many steps have been played by then (epsilon depends on that), in which order rollouts reach learners, and in which
order learners read and change the weights. Each line of journal.jsonl is one such event:

    ["rollout", actor, generation, index, [[version, played], ...]]   collected, with these weights
    ["batch", learner, [[actor, index], ...]]                         a learner takes these rollouts, in this order
    ["observe", learner]                                              it updates the normaliser's statistics
    ["copy", learner], ["apply", learner, learning_rate]              it reads, changes the weights
    ["publish", learner, version, checksum]                           it publishes them
    ["end", checksum]                                                 the weights after all threads have stopped
"""

import io
import json
import threading
import zlib
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from troupe import safe_files
from troupe.runtime.data.rollout import Rollout
from troupe.runtime.learning.normalizer_statistics import NormalizerStatistics
from troupe.runtime.learning.weights import Master, OptimizerMaker, WeightStore

FILE = "journal.jsonl"


class NoJournal:
    """The journal of a run that is not recorded: it discards every event."""

    def rollout(self, rollout: Rollout) -> None:
        pass

    def batch(self, rollouts: Sequence[Rollout]) -> None:
        pass


class Journal(NoJournal):
    """Events of all threads, in their order; a learner is identified by its thread's name."""

    def __init__(self) -> None:
        self._events: deque[list[object]] = deque()

    def rollout(self, rollout: Rollout) -> None:
        self._events.append(["rollout", rollout.actor, rollout.generation, rollout.index, rollout.pulls])

    def batch(self, rollouts: Sequence[Rollout]) -> None:
        self._events.append(["batch", _thread(), [[each.actor, each.index] for each in rollouts]])

    def weights(self, event: str, *values: object) -> None:
        """This thread reads or changes the weights."""
        self._events.append([event, _thread(), *values])

    def end(self, vector: Float[Tensor, " P"]) -> None:
        """All threads have stopped, a learner perhaps between two publications."""
        self._events.append(["end", checksum(vector)])

    def append_to(self, run: Path) -> None:
        """Writes the events since the last call. Where that fails, no more events are recorded."""
        lines = [json.dumps(self._events.popleft(), separators=(",", ":")) for _ in range(len(self._events))]
        if lines:
            try:
                with io.BufferedWriter(safe_files.append(run / FILE)) as file:
                    file.write(("\n".join(lines) + "\n").encode())
            except OSError:
                self.discard()
                raise

    def discard(self) -> None:
        """Records no more events."""
        self._events = deque(maxlen=0)


class RecordedMaster(Master):
    """A master that records each access to the weights, while its lock is held."""

    def __init__(
        self,
        vector: Float[Tensor, " P"],
        make_optimizer: OptimizerMaker,
        store: WeightStore,
        journal: Journal,
        statistics: NormalizerStatistics | None = None,
    ):
        super().__init__(vector, make_optimizer, store, statistics)
        self._journal = journal

    def observe(self, numbers: Tensor | None, returns: Tensor, writer: int = 0) -> float:
        with self.lock:
            self._journal.weights("observe")
            return super().observe(numbers, returns, writer)

    def copy_to(self, vector: Float[Tensor, " P"]) -> None:
        with self.lock:
            super().copy_to(vector)
            self._journal.weights("copy")

    def apply(self, gradient: Float[Tensor, " P"], learning_rate: float) -> None:
        with self.lock:
            super().apply(gradient, learning_rate)
            self._journal.weights("apply", learning_rate)

    def publish(self) -> int:
        with self.lock:
            # Recorded first: an actor may pull these weights, and its rollout be recorded, before this thread
            # continues.
            self._journal.weights("publish", self.version + 1, checksum(self.vector))
            return super().publish()


def checksum(vector: Float[Tensor, " P"]) -> int:
    return zlib.crc32(vector.detach().cpu().numpy().tobytes())


def _thread() -> str:
    return threading.current_thread().name
