"""What a run needs of a cluster. Ray gives it (ray_engine.py); in tests, threads of one process."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from troupe.config import TroupeError

Handle = Any  # of a host that was started
Ticket = Any  # of a call whose result is awaited; hashable


class HostLost(Exception):
    """A host does not exist any more, or does not answer; the text says why. Another can take its actors."""


class HostFailed(TroupeError):
    """What code on a host raised; `trace` is the traceback from there."""

    def __init__(self, message: str, trace: str = ""):
        super().__init__(message)
        if trace:
            self.add_note(f"on the host:\n{trace}")


@dataclass(frozen=True)
class Node:
    """A machine of the cluster. `free` are the cores that no other program of the cluster has reserved, `store_bytes`
    the size of its object store."""

    id: str  # another one each time the machine joins
    name: str  # unique among the machines
    cores: int
    free: int
    store_bytes: float


class Engine(Protocol):
    """Starts hosts on nodes and calls their methods. No call waits: a ticket stands for the result."""

    def nodes(self) -> list[Node]:
        """Those that are alive and have cores."""

    def probe(self, node: Node) -> Ticket:
        """The versions of the packages there (versions.py), asked for without importing any of ours."""

    def start(self, node: Node, actors: int) -> Handle:
        """A host (host.py) on that node, for so many actors."""

    def share(self, value: Any) -> Any:
        """What may be an argument of calls of several hosts in place of `value`, which is copied once for all."""

    def call(self, host: Handle, method: str, *arguments: Any) -> Ticket:
        """Calls of `collect` are executed in order, one at a time; others do not wait for it."""

    def wait(self, tickets: Sequence[Ticket], seconds: float) -> list[Ticket]:
        """Those whose result is here; waits at most that long for the first."""

    def result(self, ticket: Ticket) -> Any:
        """Of a ticket that `wait` gave; raises HostLost and HostFailed."""

    def kill(self, host: Handle) -> None:
        """Ends the host and its actors, whatever they do."""
