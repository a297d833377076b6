"""The machines of a cluster as a run knows them, and how its actors are spread over them."""

import time
from collections.abc import Mapping

from troupe.runtime.cluster.engine import Engine, Node

_AVOID_SECONDS = 60.0  # the last choice for so long: the cluster may take a dead machine for alive for a while


class Machines:
    """Those that can take part, without the refused; `look` finds out which there are."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._nodes: list[Node] = []
        self._cores: dict[str, int] = {}  # by id, as far as they were free when the machine was first seen
        self._avoided: dict[str, float] = {}  # by id, until when
        self.refused: dict[str, str] = {}  # by id, and why

    def look(self) -> list[Node]:
        """Those that have joined since the last look; at the first, none has."""
        before = bool(self._cores)
        self._nodes = [node for node in self._engine.nodes() if node.id not in self.refused]
        joined = [node for node in self._nodes if node.id not in self._cores]
        self._cores |= {node.id: node.free for node in joined}
        return joined if before else []

    def avoid(self, node: Node) -> None:
        """It has lost a host."""
        self._avoided[node.id] = time.monotonic() + _AVOID_SECONDS

    def spread(self, actors: int, load: Mapping[str, int]) -> list[tuple[Node, int]]:
        """How many actors go where; `load` has those that machines have already, by id. Empty without any machine."""
        now = time.monotonic()
        nodes = [node for node in self._nodes if self._avoided.get(node.id, 0.0) < now] or self._nodes
        dealt = deal(actors, {node.id: self._cores[node.id] for node in nodes}, load)
        return [(node, dealt[node.id]) for node in nodes if node.id in dealt]


def deal(actors: int, cores: Mapping[str, int], load: Mapping[str, int]) -> dict[str, int]:
    """Actors by machine, so that those of each, with its `load` of others, are in proportion to its cores.

    Machines that get none are left out, and so are those with no core unless all have none.
    """
    chosen = {each: count for each, count in cores.items() if count > 0} or dict.fromkeys(cores, 1)
    dealt = dict.fromkeys(chosen, 0)
    for _ in range(actors if chosen else 0):
        idlest = min(chosen, key=lambda each: (load.get(each, 0) + dealt[each] + 1) / chosen[each])
        dealt[idlest] += 1
    return {each: count for each, count in dealt.items() if count}
