"""What the learners on one gradient exchange. The learner of an ordinary run is alone, and exchanges nothing."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from troupe.algorithm.returns import AdvantageEMA, JoinedAdvantages
from troupe.runtime.execution.supervisor import Supervisor
from troupe.runtime.learning.weights import HogwildMaster, Master
from troupe.runtime.progress import Progress


class Alone:
    """The group of a single learner: every method leaves what it is given as it is.

    `RankGroup` is the group of several processes, with the same methods. The learners call them in the same order.
    """

    rank, size = 0, 1
    notes: Sequence[str] = ()  # what a user may want to know about the learners

    def follow(self, master: Master | HogwildMaster) -> None:
        """Takes over the weights of rank 0 where no gradient leads to them: at the start and after a rollback."""

    def count(self, progress: Progress) -> None:
        """Adds what the other learners have counted since the last call; all have counted the same steps then."""

    def total(self, values: Tensor) -> Tensor:
        """The sum of the learners' `values`."""
        return values

    def mean(self, values: Tensor, rows: int) -> Tensor:  # noqa: ARG002
        """The mean over the rows of all learners, where `values` are the mean over the `rows` of this one."""
        return values

    def gather(self, parts: Float[Tensor, "W ..."]) -> None:
        """Learner k has part k; afterwards all have all."""

    def joined(self, ema: AdvantageEMA) -> AdvantageEMA | JoinedAdvantages:
        """`ema` of the minibatches of all learners together."""
        return ema

    def watch(self, supervisor: Supervisor, progress: Progress) -> None:
        """Starts a thread that reports to rank 0 until the run ends, and ends the run where another learner has."""

    def wake(self) -> None:
        """Ends every wait; rank 0 ends the other learners as well."""
