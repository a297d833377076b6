"""A cluster of threads of this process, on which nothing is lost but what a test takes away."""

import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from queue import SimpleQueue
from typing import Any

from troupe.runtime.cluster import versions
from troupe.runtime.cluster.engine import HostLost, Node
from troupe.runtime.cluster.host import Host


class Started:
    """A host and its two threads: one for `open` and `collect`, in order, and one for the other calls."""

    def __init__(self, node: Node, host: Any):
        self.node, self.host, self.lost = node, host, ""
        self.tickets: list[Future[Any]] = []
        self.work: tuple[SimpleQueue[Any], SimpleQueue[Any]] = (SimpleQueue(), SimpleQueue())
        for queue in self.work:
            threading.Thread(target=self._serve, args=(queue,), daemon=True).start()

    def call(self, method: str, arguments: Sequence[Any]) -> Future[Any]:
        ticket: Future[Any] = Future()
        self.tickets.append(ticket)
        if self.lost:
            ticket.set_exception(HostLost(self.lost))
        else:
            self.work[method not in ("open", "collect")].put((method, arguments, ticket))
        return ticket

    def lose(self, why: str) -> None:
        """It answers no more; its threads end."""
        self.lost = why
        for queue in self.work:
            queue.put(None)
        for ticket in self.tickets:
            if not ticket.done():
                ticket.set_exception(HostLost(why))

    def _serve(self, queue: "SimpleQueue[Any]") -> None:
        while (item := queue.get()) is not None and not self.lost:
            method, arguments, ticket = item
            answer = getattr(self.host, method)(*arguments)
            if not ticket.done():
                ticket.set_result(answer)


class ThreadEngine:
    """`machines` has the cores of each by name; `make_host` makes what answers on one."""

    def __init__(self, machines: dict[str, int], make_host: Callable[[Node], Any] = lambda _: Host()):
        self._numbers = itertools.count()
        self.machines = {name: self._node(name, cores) for name, cores in machines.items()}
        self.make_host, self.hosts = make_host, list[Started]()
        self.versions: dict[str, dict[str, str]] = {}  # of machines that differ from this one
        self.shared: list[Any] = []

    def join(self, name: str, cores: int) -> None:
        self.machines[name] = self._node(name, cores)

    def remove(self, name: str, why: str = "its machine is gone") -> None:
        del self.machines[name]
        for host in self.hosts:
            if host.node.name == name and not host.lost:
                host.lose(why)

    def on(self, name: str) -> list[Started]:
        """The hosts of that machine that are not lost."""
        return [host for host in self.hosts if host.node.name == name and not host.lost]

    def nodes(self) -> list[Node]:
        return list(self.machines.values())

    def probe(self, node: Node) -> Future[Any]:
        ticket: Future[Any] = Future()
        ticket.set_result(versions.prober()() | self.versions.get(node.name, {}))
        return ticket

    def start(self, node: Node, actors: int) -> Started:
        self.hosts.append(Started(node, self.make_host(node)))
        return self.hosts[-1]

    def share(self, value: Any) -> Any:
        self.shared.append(value.copy())
        return self.shared[-1]

    def call(self, host: Started, method: str, *arguments: Any) -> Future[Any]:
        return host.call(method, arguments)

    def wait(self, tickets: Sequence[Future[Any]], seconds: float) -> list[Future[Any]]:
        done, _ = wait(tickets, seconds, FIRST_COMPLETED)
        return [ticket for ticket in tickets if ticket in done]

    def result(self, ticket: Future[Any]) -> Any:
        return ticket.result()

    def kill(self, host: Started) -> None:
        if not host.lost:
            threading.Thread(target=host.host.close, daemon=True).start()
            host.lose("it was ended")

    def _node(self, name: str, cores: int) -> Node:
        return Node(f"{name}-{next(self._numbers)}", name, cores, cores, 1e9)
