"""The weights that learners improve, and the copies that actors pull."""

import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from troupe.algorithm.optimizers import Optimizer, eval_weights, load_state, share_state
from troupe.runtime.data.shared_memory import Block
from troupe.runtime.learning.normalizer_statistics import NormalizerStatistics

_COPIES = 4
OptimizerMaker = Callable[[Float[Tensor, " P"]], Optimizer]  # of the weights it is to change


class Weights(Protocol):
    """Where an actor pulls weights from."""

    @property
    def version(self) -> int: ...

    def pull(self, into: Float[Tensor, " P"], have: int) -> int: ...


class WeightStore:
    """The last published weights, and their version: how often weights were published.

    With `shared`, actors in other processes pull too. Readers hold no shared lock, so one that is killed
    leaves nothing locked: the copies are written in turn, and a reader that finds that the writer has
    reused its copy meanwhile reads again. Each copy has its version beside it, as a store that mirrors
    another one does not get every version.
    """

    def __init__(self, vector: Float[Tensor, " P"], version: int = 0, *, shared: bool = False):
        self._block = Block(
            {"copies": ((_COPIES, len(vector)), np.float32), "versions": ((_COPIES,), np.int64),
             "written": ((1,), np.int64)},
            shared=shared,
        )  # fmt: skip
        self._attach()
        self._copies[0].copy_(vector)
        self._versions[0] = version

    def publish(self, vector: Float[Tensor, " P"], version: int | None = None) -> int:
        """Called by one thread at a time, which holds the master's lock. The version is the next one, unless given."""
        following = int(self._written[0]) + 1
        named = self.version + 1 if version is None else version
        with self._order:
            self._versions[following % _COPIES] = named
            self._copies[following % _COPIES].copy_(vector)
        self._written[0] = following
        return named

    def pull(self, into: Float[Tensor, " P"], have: int) -> int:
        """Copies the weights into `into` unless version `have` is still the newest; returns the version."""
        while True:
            written = int(self._written[0])
            if self._versions[written % _COPIES] == have:
                return have
            with self._order:
                version = int(self._versions[written % _COPIES])
                into.copy_(self._copies[written % _COPIES])
            if int(self._written[0]) - written < _COPIES - 1:
                return version

    @property
    def size(self) -> int:
        return len(self._copies[0])

    @property
    def version(self) -> int:
        return int(self._versions[int(self._written[0]) % _COPIES])

    def _attach(self) -> None:
        self._copies = torch.from_numpy(self._block["copies"])
        self._versions, self._written = self._block["versions"], self._block["written"]
        # Taking a lock is a memory barrier: it keeps the processor from reordering the copy and the read of what
        # was written. Each process has its own, and among threads it is held only as long as a copy takes.
        self._order = threading.Lock()

    def __getstate__(self) -> Block:
        return self._block

    def __setstate__(self, state: Block) -> None:
        self._block = state
        self._attach()


class _Optimized:
    """Weights with an optimizer, and the statistics by which observations and rewards are normalised."""

    vector: Float[Tensor, " P"]
    optimizer: Optimizer
    statistics: NormalizerStatistics | None  # several writers need no lock
    _make_optimizer: OptimizerMaker

    @property
    def eval_weights(self) -> Float[Tensor, " P"]:
        """The weights to evaluate and to save as the result."""
        return eval_weights(self.optimizer, self.vector)

    def observe(self, numbers: Tensor | None, returns: Tensor, writer: int = 0) -> float:
        """Adds a batch to the statistics; returns the standard deviation of returns now."""
        assert self.statistics is not None
        self.statistics.add(numbers, returns, writer)
        self.statistics.write_to(self.vector)
        return self.statistics.return_std

    def _reset_to(self, vector: Float[Tensor, " P"]) -> None:
        """Continues from `vector` with a fresh optimizer."""
        self.vector.copy_(vector)
        if self.statistics:
            self.statistics.reset_to(vector)
        load_state(self.optimizer, self._make_optimizer(vector).state())

    def state(self) -> dict[str, Tensor]:
        """The state of the optimizer and the statistics: all but the weights."""
        return self.optimizer.state() | (self.statistics.state() if self.statistics else {})

    def load(self, state: Mapping[str, Tensor]) -> None:
        load_state(self.optimizer, state)
        if self.statistics:
            self.statistics.load(state)


class Master(_Optimized):
    """The weights being learned, their optimizer, and the lock under which either changes.

    Learners compute on copies of their own, so that no update lands between a forward and its backward
    pass, and nobody's gradient is added to another's.
    """

    def __init__(
        self,
        vector: Float[Tensor, " P"],
        make_optimizer: OptimizerMaker,
        store: WeightStore,
        statistics: NormalizerStatistics | None = None,
    ):
        self.vector, self.store, self.statistics = vector, store, statistics
        self._make_optimizer, self.optimizer = make_optimizer, make_optimizer(vector)
        self.lock = threading.RLock()
        self.step_factor = 1.0  # of every learning rate: smaller after a rollback
        self.oldest = 0  # rollouts of an older version, from before a rollback, are not learned from

    @property
    def version(self) -> int:
        return self.store.version

    def observe(self, numbers: Tensor | None, returns: Tensor, writer: int = 0) -> float:
        with self.lock:
            return super().observe(numbers, returns, writer)

    def copy_to(self, vector: Float[Tensor, " P"]) -> None:
        with self.lock:
            vector.copy_(self.vector)

    def apply(self, gradient: Float[Tensor, " P"], learning_rate: float) -> None:
        with self.lock:
            self.optimizer.step(self.vector, gradient, learning_rate * self.step_factor)

    def publish(self) -> int:
        with self.lock:
            return self.store.publish(self.vector)

    def roll_back(self, vector: Float[Tensor, " P"], step_factor: float) -> None:
        """Resumes from `vector`, as a new version, with a fresh optimizer and a smaller learning rate."""
        with self.lock:
            self._reset_to(vector)
            self.step_factor *= step_factor
            self.oldest = self.publish()


class HogwildMaster(_Optimized):
    """Weights and optimizer statistics that workers read and change without waiting for each other.

    As in Mnih et al. 2016, after Recht et al. 2011: an update may overwrite part of another's; with
    small steps that is noise, and a worker that is killed in the middle leaves a usable vector. The
    version counts updates and rollbacks; every worker keeps a count of its own, so that none is lost.
    """

    def __init__(
        self,
        vector: Float[Tensor, " P"],
        make_optimizer: OptimizerMaker,
        workers: int,
        version: int = 0,
        statistics: NormalizerStatistics | None = None,
        *,
        shared: bool = False,
    ):
        self._make_optimizer, self.statistics = make_optimizer, statistics
        first = make_optimizer(vector).state()
        fields: dict[str, Any] = {
            "weights": (tuple(vector.shape), np.float32),
            "updates": ((workers,), np.int64),
            "rollbacks": ((1,), np.int64),
            "step_factor": ((1,), np.float64),
            "oldest": ((1,), np.int64),
        }
        fields |= {f"optimizer/{name}": (tuple(part.shape), part.numpy().dtype) for name, part in first.items()}
        self._block = Block(fields, shared=shared)
        self._attach()
        self.vector.copy_(vector)
        load_state(self.optimizer, first)
        self._updates[0] = version
        self.step_factor = 1.0

    @property
    def version(self) -> int:
        return int(self._updates.sum() + self._block["rollbacks"][0])

    @property
    def step_factor(self) -> float:
        return float(self._block["step_factor"][0])

    @step_factor.setter
    def step_factor(self, factor: float) -> None:
        self._block["step_factor"][0] = factor

    @property
    def oldest(self) -> int:
        return int(self._block["oldest"][0])

    @oldest.setter
    def oldest(self, version: int) -> None:
        self._block["oldest"][0] = version

    def pull(self, into: Float[Tensor, " P"], have: int) -> int:  # noqa: ARG002
        """Always copies the current weights: when version `have` was pulled, an update may have been half done."""
        version = self.version
        into.copy_(self.vector)
        return version

    def apply(self, gradient: Float[Tensor, " P"], learning_rate: float) -> None:
        self.optimizer.step(self.vector, gradient, learning_rate * self.step_factor)

    def roll_back(self, vector: Float[Tensor, " P"], step_factor: float) -> None:
        """As Master.roll_back, while workers are paused between two steps of their environments. A worker in the
        middle of an update may overwrite part of it, as any two updates may."""
        self.oldest = np.iinfo(np.int64).max  # meanwhile nobody learns
        self.step_factor *= step_factor
        self._reset_to(vector)
        self._block["rollbacks"][0] += 1
        self.oldest = self.version

    def count(self, worker: int) -> None:
        """Counts an update of `worker`."""
        self._updates[worker] += 1

    def _attach(self) -> None:
        self.vector, self._updates = torch.from_numpy(self._block["weights"]), self._block["updates"]
        self.optimizer = self._make_optimizer(self.vector)
        names = self.optimizer.state()
        share_state(self.optimizer, {name: torch.from_numpy(self._block[f"optimizer/{name}"]) for name in names})
        self.lock = threading.RLock()  # for evaluations and checkpoints; workers take none

    def __getstate__(self) -> tuple[Any, Block, NormalizerStatistics | None]:
        return self._make_optimizer, self._block, self.statistics

    def __setstate__(self, state: tuple[Any, Block, NormalizerStatistics | None]) -> None:
        self._make_optimizer, self._block, self.statistics = state
        self._attach()
