"""The journal of an asynchronous run: the few facts from which every bit of it can be computed again.

Actors and learners are deterministic; what differs from run to run is which weights an actor found when it
began a rollout, how many steps had been played by then (epsilon goes by that), in which order rollouts
reached learners, and in which order learners touched the weights. Each line of journal.jsonl is one such fact:

    ["rollout", actor, generation, index, [[version, played], ...]]   made, with these weights
    ["batch", learner, [[actor, index], ...]]                         these rollouts, in this order
    ["observe", learner]                                              a learner counts what is new in a batch
    ["copy", learner], ["apply", learner, learning_rate]              a learner reads, changes the weights
    ["publish", learner, version, checksum]                           the weights are these now
    ["end", checksum]                                                 and were these when all had stopped

`runs/replay.py` reads it.
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
    """Takes no notes: what a run has that is not recorded."""

    def rollout(self, rollout: Rollout) -> None:
        pass

    def batch(self, rollouts: Sequence[Rollout]) -> None:
        pass


class Journal(NoJournal):
    """Notes from all threads, in the order in which things happened; learners are known by their thread's name."""

    def __init__(self) -> None:
        self._notes: deque[list[object]] = deque()

    def rollout(self, rollout: Rollout) -> None:
        self._notes.append(["rollout", rollout.actor, rollout.generation, rollout.index, rollout.pulls])

    def batch(self, rollouts: Sequence[Rollout]) -> None:
        self._notes.append(["batch", _who(), [[each.actor, each.index] for each in rollouts]])

    def touch(self, what: str, *facts: object) -> None:
        self._notes.append([what, _who(), *facts])

    def end(self, vector: Float[Tensor, " P"]) -> None:
        """All is at rest; a learner may have been stopped between two publications."""
        self._notes.append(["end", checksum(vector)])

    def append_to(self, run: Path) -> None:
        """Writes down what has been noted since the last call. Where it cannot be, nothing is noted any more."""
        lines = [json.dumps(self._notes.popleft(), separators=(",", ":")) for _ in range(len(self._notes))]
        if lines:
            try:
                with io.BufferedWriter(safe_files.append(run / FILE)) as file:
                    file.write(("\n".join(lines) + "\n").encode())
            except OSError:
                self.discard()
                raise

    def discard(self) -> None:
        """Notes nothing any more."""
        self._notes = deque(maxlen=0)


class RecordedMaster(Master):
    """A master that notes who touches the weights, at the moment it happens."""

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
            self._journal.touch("observe")
            return super().observe(numbers, returns, writer)

    def copy_to(self, vector: Float[Tensor, " P"]) -> None:
        with self.lock:
            super().copy_to(vector)
            self._journal.touch("copy")

    def apply(self, gradient: Float[Tensor, " P"], learning_rate: float) -> None:
        with self.lock:
            super().apply(gradient, learning_rate)
            self._journal.touch("apply", learning_rate)

    def publish(self) -> int:
        with self.lock:
            # Noted first: an actor may use these weights, and its rollout be noted, before this thread goes on.
            self._journal.touch("publish", self.version + 1, checksum(self.vector))
            return super().publish()


def checksum(vector: Float[Tensor, " P"]) -> int:
    return zlib.crc32(vector.detach().cpu().numpy().tobytes())


def _who() -> str:
    return threading.current_thread().name
