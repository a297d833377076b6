"""What a run needs from a cluster. Ray provides it (ray_engine.py); in tests, threads of one process do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from troupe.config import TroupeError

Handle = Any  # of a host that was started
Ticket = Any  # of a call whose result is pending; hashable


class HostLost(Exception):
    """A host has ended or does not answer; the text says why. Another host can take over its actors."""


class HostFailed(TroupeError):
    """Code on a host raised an exception; `trace` is its traceback."""

    def __init__(self, message: str, trace: str = ""):
        super().__init__(message)
        if trace:
            self.add_note(f"on the host:\n{trace}")


@dataclass(frozen=True)
class Node:
    """A machine of the cluster. `free` are the cores that no other program of the cluster has reserved, `store_bytes`
    the size of its object store."""

    id: str  # a new one each time the machine joins
    name: str  # unique among the machines
    cores: int
    free: int
    store_bytes: float


class Engine(Protocol):
    """Starts hosts on nodes and calls their methods. No call waits for its result: it returns a ticket."""

    def nodes(self) -> list[Node]:
        """The nodes that are alive and have cores."""

    def probe(self, node: Node) -> Ticket:
        """The versions of the packages there (versions.py); works where troupe is not installed."""

    def start(self, node: Node, actors: int) -> Handle:
        """Starts a host (host.py) on that node, for that many actors."""

    def share(self, value: Any) -> Any:
        """What calls of several hosts take in place of the array `value`: a copy or, if it is large, a reference to the
        only copy."""

    def call(self, host: Handle, method: str, *arguments: Any) -> Ticket:
        """Calls of `collect` run in order, one at a time; other calls do not wait for them."""

    def wait(self, tickets: Sequence[Ticket], seconds: float) -> list[Ticket]:
        """The tickets whose result has arrived; waits at most that long for the first."""

    def result(self, ticket: Ticket) -> Any:
        """The result of a ticket that `wait` returned. Raises HostLost and HostFailed."""

    def kill(self, host: Handle) -> None:
        """Kills the host and its actors."""
