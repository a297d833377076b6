"""Where the weights live: the one set that learners improve, and the copy that actors pull."""

import threading

from jaxtyping import Float
from torch import Tensor

from troupe.algorithm.optimizers import Optimizer


class WeightStore:
    """The last published weights, and their version: how often weights were published."""

    def __init__(self, vector: Float[Tensor, " P"], version: int = 0):
        self._vector = vector.clone()
        self._lock = threading.Lock()
        self.version = version

    def publish(self, vector: Float[Tensor, " P"]) -> int:
        with self._lock:
            self._vector.copy_(vector)
            self.version += 1
            return self.version

    def pull(self, into: Float[Tensor, " P"], have: int) -> int:
        """Copies the weights into `into` unless version `have` is still the newest; returns the version."""
        if have == self.version:
            return have
        with self._lock:
            into.copy_(self._vector)
            return self.version


class Master:
    """The weights being learned, their optimizer, and the lock under which either changes.

    Learners compute on copies of their own, so that no update lands between a forward and its backward
    pass, and nobody's gradient is added to another's.
    """

    def __init__(self, vector: Float[Tensor, " P"], optimizer: Optimizer, store: WeightStore):
        self.vector, self.optimizer, self.store = vector, optimizer, store
        self.lock = threading.RLock()

    def copy_to(self, vector: Float[Tensor, " P"]) -> None:
        with self.lock:
            vector.copy_(self.vector)

    def apply(self, gradient: Float[Tensor, " P"], learning_rate: float) -> None:
        with self.lock:
            self.optimizer.step(self.vector, gradient, learning_rate)

    def publish(self) -> int:
        with self.lock:
            return self.store.publish(self.vector)
