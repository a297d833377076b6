"""What learners that share a gradient exchange. The single learner of an ordinary run exchanges nothing."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from troupe.algorithm.returns import AdvantageEMA, JoinedAdvantages
from troupe.runtime.execution.supervisor import Supervisor
from troupe.runtime.learning.weights import HogwildMaster, Master
from troupe.runtime.progress import Progress


class Alone:
    """The group of a single learner: every method returns its argument unchanged.

    `RankGroup` is the group of several processes, with the same methods. The learners call them in the same order.
    """

    rank, size = 0, 1
    notes: Sequence[str] = ()  # what a user may want to know about the learners

    def follow(self, master: Master | HogwildMaster) -> None:
        """Copies the weights of rank 0 that no shared gradient led to: at the start and after a rollback."""

    def count(self, progress: Progress) -> None:
        """Adds what the other learners counted since the last call; afterwards all have the same counts."""

    def total(self, values: Tensor) -> Tensor:
        """The sum of the learners' `values`."""
        return values

    def mean(self, values: Tensor, rows: int) -> Tensor:  # noqa: ARG002
        """The mean over the rows of all learners; `values` is the mean over the `rows` of this one."""
        return values

    def gather(self, parts: Float[Tensor, "W ..."]) -> None:
        """Learner k has part k; afterwards every learner has all parts."""

    def joined(self, ema: AdvantageEMA) -> AdvantageEMA | JoinedAdvantages:
        """`ema`, taken over the minibatches of all learners together."""
        return ema

    def watch(self, supervisor: Supervisor, progress: Progress) -> None:
        """Starts a thread that reports to rank 0 until the run ends, and ends the run if another learner has ended."""

    def wake(self) -> None:
        """Ends every wait; rank 0 ends the other learners as well."""
