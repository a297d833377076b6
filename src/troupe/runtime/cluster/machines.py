"""The machines of a cluster as a run knows them, and how its actors are spread over them."""

import time
from collections.abc import Mapping

from troupe.runtime.cluster.engine import Engine, Node

_AVOID_SECONDS = 60.0  # used last for that long: the cluster may count a dead machine as alive for a while


class Machines:
    """The machines that can take part, without the refused ones; `look` updates them."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._nodes: list[Node] = []
        self._cores: dict[str, int] = {}  # by id: those that were free when the machine was first seen
        self._avoided: dict[str, float] = {}  # until when, by id
        self.refused: dict[str, str] = {}  # why, by id

    def look(self) -> list[Node]:
        """The machines that have joined since the last call; at the first call, none."""
        before = bool(self._cores)
        self._nodes = [node for node in self._engine.nodes() if node.id not in self.refused]
        joined = [node for node in self._nodes if node.id not in self._cores]
        self._cores |= {node.id: node.free for node in joined}
        return joined if before else []

    def avoid(self, node: Node) -> None:
        """A host on it was lost."""
        self._avoided[node.id] = time.monotonic() + _AVOID_SECONDS

    def spread(self, actors: int, load: Mapping[str, int]) -> list[tuple[Node, int]]:
        """How many of `actors` each machine gets; `load`: those they have already, by id. Empty without machines."""
        now = time.monotonic()
        nodes = [node for node in self._nodes if self._avoided.get(node.id, 0.0) < now] or self._nodes
        dealt = deal(actors, {node.id: self._cores[node.id] for node in nodes}, load)
        return [(node, dealt[node.id]) for node in nodes if node.id in dealt]


def deal(actors: int, cores: Mapping[str, int], load: Mapping[str, int]) -> dict[str, int]:
    """Distributes actors so that each machine has, with its present `load`, a number in proportion to its cores.

    Machines that get none are left out. Those without a free core get none unless all are without.
    """
    chosen = {each: count for each, count in cores.items() if count > 0} or dict.fromkeys(cores, 1)
    dealt = dict.fromkeys(chosen, 0)
    for _ in range(actors if chosen else 0):
        idlest = min(chosen, key=lambda each: (load.get(each, 0) + dealt[each] + 1) / chosen[each])
        dealt[idlest] += 1
    return {each: count for each, count in dealt.items() if count}
