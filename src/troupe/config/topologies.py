"""What each topology implies for a run: its path through the code, and what may be combined with it.

There are three paths. `queue` and `ga3c` are settings of the asynchronous one: several learners; predictors
that act for all actors, and a controller that adjusts the numbers of each.
"""

from dataclasses import dataclass
from typing import Literal

Topology = Literal["serial", "queue", "hogwild", "ga3c", "async"]
Path = Literal["serial", "async", "hogwild"]


@dataclass(frozen=True)
class TopologyTraits:
    """`inference` lists the kinds of `inference.kind` that it works with."""

    path: Path
    inference: tuple[Literal["local", "batched"], ...] = ("local",)
    several_learners: bool = False
    adjustable: bool = False  # by the controller
    recordable: bool = False  # so that `troupe replay` can run it again

    @property
    def serial(self) -> bool:
        """One thread for everything: the same on every machine, and resumed exactly."""
        return self.path == "serial"

    @property
    def learns_in_actors(self) -> bool:
        return self.path == "hogwild"


TOPOLOGIES: dict[Topology, TopologyTraits] = {
    "serial": TopologyTraits("serial"),
    "async": TopologyTraits("async", ("local", "batched"), recordable=True),
    "queue": TopologyTraits("async", ("local", "batched"), several_learners=True, recordable=True),
    "ga3c": TopologyTraits("async", ("batched",), several_learners=True, adjustable=True),
    "hogwild": TopologyTraits("hogwild"),
}
