"""Ray's cluster as an engine. No other module imports Ray."""

import math
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from troupe.config import UsageError, one_line, reason
from troupe.runtime.cluster import host as hosts
from troupe.runtime.cluster import versions
from troupe.runtime.cluster.engine import Handle, HostFailed, HostLost, Node, Ticket
from troupe.runtime.cluster.parcel import SMALL_BYTES, Parcel, Request, decode_parcel, decode_request, encode
from troupe.runtime.cluster.reaper import ended_with_this_program
from troupe.runtime.measure import cores

_ANSWER_SECONDS = 5.0  # for an address to answer
_FETCH_SECONDS = 30.0  # for a result that has arrived already
_OWN = {"RAY_worker_niceness": "0"}  # in a cluster started here actors are worth as much as without Ray, not 15 less
_SETTINGS = b"\x04"  # a type of frame, the first that both sides send each other (RFC 9113, section 3.4)
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + _SETTINGS + bytes(5)  # of gRPC, and so of Ray
_QUIET: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}


@contextmanager
def connected(address: str, rank: int = 0, ranks: int = 1) -> Iterator["RayEngine"]:
    """Inside, this process is connected to a cluster: the one at `address` or, for auto, one that runs on this machine,
    or else one that is started here and ends with it. An existing connection is used and kept. Raises UsageError.

    It is one of several `ranks` that play on the cluster."""
    if ray.is_initialized():
        with _address_known():
            yield RayEngine(rank, ranks)
        return
    known = address if address != "auto" else _running()
    own = ExitStack()  # what a cluster of this program leaves behind
    try:
        # Ray prints whole logs of what it has lost into a program's output, where a run says it in a line.
        ray._private.worker.print_to_stdstream = lambda *_, **__: None
        with _handlers_kept():
            if known:
                _join(known)
            else:
                folder = _folder()
                own.callback(shutil.rmtree, folder, ignore_errors=True)
                own.enter_context(ended_with_this_program(partial(_start, folder)))
        engine = RayEngine(rank, ranks)
        if not engine.nodes():
            raise UsageError(f"cluster {address}: no machine of it has cores for actors (ray start --num-cpus N)")
        with _address_known():
            yield engine
    finally:
        ray.shutdown()
        own.close()


def _address_known() -> AbstractContextManager[None]:
    """Processes that are started inside find the cluster, as `auto`."""
    return _variables({"RAY_ADDRESS": ray.get_runtime_context().gcs_address})


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Inside, the environment has these."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ |= {} if value is None else {name: value}


def _running() -> str:
    """The address of the cluster that this machine belongs to; "" if none answers."""
    address = os.environ.get("RAY_ADDRESS") or ray._private.utils.read_ray_address() or ""
    return address if address and not _unanswered(address) else ""


def _unanswered(address: str) -> str:
    """Why an address is not that of a cluster; "" if it is. Ray itself would ask it again for many minutes."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0") == "1":
                return ""
            connection.sendall(_HELLO)
            answer = connection.recv(9, socket.MSG_WAITALL)
    except (OSError, ValueError) as error:
        return f"nothing answers there: {reason(error)}" if isinstance(error, OSError) else "it is no HOST:PORT"
    return "" if answer[3:4] == _SETTINGS else "what answers there is not Ray"


def _join(address: str) -> None:
    if wrong := _unanswered(address):
        raise UsageError(f"cluster {address}: {wrong}")
    try:
        ray.init(address=address, **_QUIET)
    except (ConnectionError, RuntimeError, ValueError, exceptions.RayError) as error:
        why, root = one_line(str(error)), error
        while root.__cause__ is not None:
            root = root.__cause__
        if "token" in why.lower() or "token" in str(root).lower():
            todo = "it requires Ray's token: set RAY_AUTH_MODE=token and copy the cluster's ~/.ray/auth_token here"
        elif "mismatch" in why.lower():
            todo = why
        else:
            todo = f"this machine must be part of it: ray start --address={address} ({one_line(str(root))[:200]})"
        raise UsageError(f"cluster {address}: {todo}") from error


def _start(folder: str) -> None:
    """Starts a cluster of this machine alone, which no one else can use and which ends with this process."""
    if not any(name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(16)  # otherwise Ray writes one into the user's home
    with _variables(_OWN):
        ray.init(
            address="local", num_cpus=cores(), include_dashboard=False, _node_ip_address="127.0.0.1", _temp_dir=folder,
            **_QUIET,
        )  # fmt: skip


def _folder() -> str:
    """A folder for the files of a cluster started here. Removes those that killed programs have left."""
    base = "/tmp" if os.path.isdir("/tmp") else None  # the names of Ray's sockets must be short
    for old in Path(base or tempfile.gettempdir()).glob("troupe-ray-*-*"):
        owner = old.name.split("-")[2]
        if owner.isdigit() and not os.path.exists(f"/proc/{owner}") and os.path.isdir("/proc/self"):
            shutil.rmtree(old, ignore_errors=True)
    return tempfile.mkdtemp(prefix=f"troupe-ray-{os.getpid()}-", dir=base)


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Restores the handler of SIGTERM, at which Ray would end the program."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


class RayEngine:
    """The cluster that this process is connected to (engine.Engine).

    Of several `ranks` each has its share of every machine, and each begins with another one.
    """

    def __init__(self, rank: int = 0, ranks: int = 1) -> None:
        self._rank, self._ranks = rank, ranks
        self._names: dict[str, str] = {}  # of nodes that are alive, by id

    def nodes(self) -> list[Node]:
        alive = {each["NodeID"]: each for each in ray.nodes() if each["Alive"] and each["Resources"].get("CPU", 0) >= 1}
        free = ray._private.state.available_resources_per_node()
        if self._ranks > 1:  # what is not free may be another rank's share
            free = {id_: each["Resources"] for id_, each in alive.items()}
        self._names = _names({id_: each["NodeManagerHostname"] for id_, each in alive.items()}, self._names)
        found = [
            Node(
                id_, self._names[id_], self._share(each["Resources"]["CPU"]),
                self._share(free.get(id_, {}).get("CPU", 0)),
                each["Resources"].get("object_store_memory", 0.0) / self._ranks,
            )
            for id_, each in sorted(alive.items())
        ]  # fmt: skip
        first = self._rank % max(1, len(found))
        return found[first:] + found[:first]

    def _share(self, cores: float) -> int:
        return math.ceil(int(cores) / self._ranks)

    def probe(self, node: Node) -> Ticket:
        task = ray.remote(versions.prober())
        return task.options(num_cpus=0, max_retries=0, scheduling_strategy=_only(node)).remote()

    def start(self, node: Node, actors: int) -> Handle:
        free = ray._private.state.available_resources_per_node().get(node.id, {}).get("CPU", 0)
        # So that other programs on the cluster see the cores as taken; several ranks reserve at the same time.
        reserved = min(actors, int(free) // self._ranks)
        # `open` and `collect` share a thread; `beat` and `close` have another, as they must not wait for rollouts.
        kind = ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups={"control": 1})(Host)
        where = {"num_cpus": reserved, "scheduling_strategy": _only(node)}
        return kind.options(enable_task_events=False, **where).remote()  # which the cluster would record for each call

    def share(self, value: Any) -> Any:
        return value.copy() if value.nbytes <= SMALL_BYTES else ray.put(value)

    def call(self, host: Handle, method: str, *arguments: Any) -> Ticket:
        group = {} if method in ("open", "collect") else {"concurrency_group": "control"}
        if method == "collect":
            counts, version, *weights = arguments
            small = weights and isinstance(weights[0], np.ndarray)
            arguments = encode(Request(counts, version, *(weights if small else ()))), *(() if small else weights)
        return getattr(host, method).options(**group).remote(*arguments)

    def wait(self, tickets: Sequence[Ticket], seconds: float) -> list[Ticket]:
        some, others = ray.wait(list(tickets), num_returns=1, timeout=seconds)
        if some and others:
            some += ray.wait(others, num_returns=len(others), timeout=0)[0]
        return list(some)

    def result(self, ticket: Ticket) -> Any:
        try:
            answer = ray.get(ticket, timeout=_FETCH_SECONDS)
            return decode_parcel(answer) if isinstance(answer, bytes) else answer
        except exceptions.RayTaskError as error:
            raise HostFailed(one_line(error.cause or error), str(error)) from None
        except exceptions.RayError as error:
            raise HostLost(_why_lost(error)) from None

    def kill(self, host: Handle) -> None:
        with suppress(exceptions.RayError, ValueError):
            ray.kill(host)


class Host(hosts.Host):
    """A host that is called with bytes, and answers with bytes if they are few. Ray calls its process by this name."""

    def collect(self, request: bytes, weights: np.ndarray | None = None) -> bytes | Parcel:  # type: ignore[override]
        counts, version, small_weights = decode_request(request)
        parcel = super().collect(counts, version, small_weights if weights is None else weights)
        return encode(parcel) if parcel.rollouts.nbytes <= SMALL_BYTES else parcel


def _names(hosts: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """The names of nodes, which never change: the machine's, with a part of the id if several share it."""
    names = {id_: known[id_] for id_ in hosts if id_ in known}
    count = Counter(host for id_, host in hosts.items() if id_ not in names)
    for id_, host in hosts.items():
        if id_ not in names:
            names[id_] = host if count[host] == 1 and host not in names.values() else f"{host}-{id_[:4]}"
    return names


def _only(node: Node) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node.id, soft=False)


def _why_lost(error: exceptions.RayError) -> str:
    text, nowhere = str(error), (exceptions.TaskUnschedulableError, exceptions.ActorUnschedulableError)
    if isinstance(error, nowhere) or ("node" in text.lower() and "died" in text):
        return "its machine is gone"
    return "its process has died" if isinstance(error, exceptions.RayActorError) else one_line(error)
