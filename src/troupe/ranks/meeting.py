"""How the ranks of a run find each other, and check that they were started alike.

`train(..., learners=2)` starts the other ranks on this machine. A process that torchrun started is a rank already, as
RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT say.
"""

import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from troupe import hints
from troupe.config import TrainConfig, UsageError
from troupe.ranks.children import Children
from troupe.runs.store.directory import versions
from troupe.runtime.execution.interruption import POLL_SECONDS
from troupe.runtime.execution.process_launch import may_have_processes
from troupe.runtime.learning.group import Alone
from troupe.runtime.measure import cores

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

    from troupe.runtime.learning.rank_group import RankGroup

_CONNECT_SECONDS = 60.0  # for all ranks to meet
_CLOSE_SECONDS = 10.0  # for the others to end
_LEAVE_SECONDS = 0.5  # to end operations that nobody waits for any more
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def of_environment() -> tuple[int, int]:
    """The rank of this process and the number of ranks, as set by torchrun; 0 and 1 without torchrun."""
    if not all(os.environ.get(name) for name in _VARIABLES):
        return 0, 1
    try:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        valid = 0 <= rank < size and 0 < int(os.environ["MASTER_PORT"]) < 2**16
    except ValueError:
        valid = False
    if not valid:
        found = ", ".join(f"{name}={os.environ[name]}" for name in _VARIABLES)
        raise UsageError(
            f"the environment variables {found} are not as torchrun sets them; unset them to train with one learner"
        )
    return rank, size


def check(learners: int, config: TrainConfig) -> None:
    """Raises UsageError if there cannot be that many learners, or if a run of `config` cannot have several."""
    rank, size = of_environment()
    if learners > 1 and size > 1:
        raise UsageError(
            f"{hints.given('learners', str(learners))}: this process is already rank {rank} of {size} (RANK, "
            f"WORLD_SIZE); leave {hints.option('learners')} out"
        )
    if learners == size == 1:
        return
    for wrong, what in (
        (
            config.topology != "async",
            f"topology {config.topology} has no batches whose gradient could be shared; use --topology async",
        ),
        (config.record, "a recorded run has one learner; leave --record out"),
        (config.learner.take_all, "their batches must have the same size; set learner.take_all to false"),
        (config.novelty.coefficient > 0, "each would measure novelty differently; set novelty.coefficient to 0"),
        (learners > 1 and not may_have_processes(), "this process is a daemon, which may not start others"),
    ):
        if wrong:
            raise UsageError(f"several learners: {what}")


@contextmanager
def join(
    learners: int, function: str, arguments: Mapping[str, Any], asked: Mapping[str, Any]
) -> Iterator["Alone | RankGroup"]:
    """The group of learners that this process belongs to. With several `learners` the others are started here and make
    the same call: `function` of the trainer with `arguments`. The settings `asked` must be the same in all ranks.

    At the end of `with`, rank 0 ends the others.
    """
    rank, size = of_environment()
    if learners == size == 1:
        yield Alone()
        return
    import torch.distributed as dist

    from troupe.runtime.learning.rank_group import RankGroup

    if dist.is_initialized():
        raise UsageError("several learners: this process already uses torch.distributed; train in another one")
    children, group = Children(), None
    try:
        if learners > 1:
            size = learners
            served = dist.TCPStore("127.0.0.1", 0, size, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
            store: Store = served
            children.start(size, served.port, function, arguments)
        else:
            store = _connected(rank, size)
        try:
            names, notes = _meet(store, rank, size, asked, children.ended)
            _open(store, rank, size)
            all_reduce = partial(dist.all_reduce, async_op=True)
            broadcast = partial(dist.broadcast, src=0, async_op=True)
            group = RankGroup(store, all_reduce, broadcast, rank, names, notes, children.ended)
            yield group
        finally:
            with suppress(RuntimeError):
                if rank == 0:
                    store.set("end", "")
                    if learners == 1 and group and not group.lost:
                        _wait_for_all(store, size)  # the store may be in this process
                else:
                    store.set(f"left/{rank}", "")
    finally:
        children.close(_CLOSE_SECONDS)
        if dist.is_initialized():
            # After the loss of a host, an operation may wait for it for ever, and so would this thread.
            thread = threading.Thread(target=dist.destroy_process_group, daemon=True)
            thread.start()
            thread.join(_LEAVE_SECONDS if rank else _CLOSE_SECONDS)
            done = sys.exc_info()[1]
            if thread.is_alive() and isinstance(done, SystemExit):
                # An operation of this rank still waits for rank 0, and Python could not end beside it.
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(done.code if isinstance(done.code, int) else 1)


def _wait_for_all(store: "Store", size: int) -> None:
    """Waits until the other ranks have seen that the run has ended."""
    others, deadline = [f"left/{rank}" for rank in range(1, size)], time.monotonic() + _CLOSE_SECONDS
    while not store.check(others) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def _connected(rank: int, size: int) -> "Store":
    """The store in which ranks started by torchrun meet. Raises UsageError if nothing answers."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch exports it without saying so

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        store: Store = TCPStore(
            host, port, size, is_master=rank == 0 and not agent, wait_for_workers=False, multi_tenant=True,
            timeout=timedelta(seconds=_CONNECT_SECONDS),
        )  # fmt: skip
        return store
    except RuntimeError as error:
        raise UsageError(
            f"rank {rank} of {size} could not connect to {host}:{port} (MASTER_ADDR, MASTER_PORT) within "
            f"{_CONNECT_SECONDS:.0f} s: is rank 0 there, and reachable from {socket.gethostname()}?"
        ) from error


def _meet(
    store: "Store", rank: int, size: int, asked: Mapping[str, Any], ended: Callable[[int], str]
) -> tuple[list[str], list[str]]:
    """The names of the ranks, and notes for the user about them. Raises UsageError if a rank is missing or was
    started differently."""
    host = socket.gethostname()
    hello = {
        "name": f"rank {rank} ({host}, process {os.getpid()})",
        "host": host,
        "cores": cores(),
        "versions": _comparable(versions()),
        "asked": asked,
    }
    store.set(f"hello/{rank}", msgspec.json.encode(hello).decode())
    deadline = time.monotonic() + _CONNECT_SECONDS
    if rank:
        # By then rank 0 reports who is missing; if rank 0 itself is gone, so is the store.
        while not store.check(["go"]):
            if store.check(["end"]) or time.monotonic() > deadline + _CLOSE_SECONDS:
                raise SystemExit(1)
            time.sleep(POLL_SECONDS)
        names: list[str] = msgspec.json.decode(store.get("go"))
        return names, []
    while missing := [each for each in range(size) if not store.check([f"hello/{each}"])]:
        for each in missing:
            if how := ended(each):
                raise UsageError(f"several learners: rank {each} could not start: {how}")
        if time.monotonic() > deadline:
            which = ", ".join(map(str, missing))
            raise UsageError(
                f"several learners: of {size} ranks, {which} did not connect within {_CONNECT_SECONDS:.0f} s: is the "
                "same command running there, with the same MASTER_ADDR and MASTER_PORT?"
            )
        time.sleep(POLL_SECONDS)
    hellos = [msgspec.json.decode(store.get(f"hello/{each}")) for each in range(size)]
    for each in hellos:
        if different := _difference(hellos[0], each):
            raise UsageError(f"several learners: {different}")
    names = [each["name"] for each in hellos]
    store.set("go", msgspec.json.encode(names).decode())
    return names, _notes(hellos)


def _comparable(found: Mapping[str, str]) -> dict[str, str]:
    return {**found, "python": ".".join(found["python"].split(".")[:2])}


def _difference(first: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What differs between two ranks; "" if nothing does."""
    for what, version in first["versions"].items():
        if (theirs := other["versions"][what]) != version:
            return f"{other['name']} has {what} {theirs}, {first['name']} {version}; install the same version"
    for name in first["asked"].keys() | other["asked"].keys():
        mine, theirs = (each["asked"].get(name) for each in (first, other))
        if mine != theirs:
            return (
                f"{other['name']} was started with {name} = {theirs}, {first['name']} with {mine}; give all ranks the "
                "same settings, or unset RANK and WORLD_SIZE to train separately"
            )
    return ""


def _notes(hellos: Sequence[Mapping[str, Any]]) -> list[str]:
    notes = [f"one gradient of {len(hellos)} learners: {', '.join(each['name'] for each in hellos)}"]
    for host, number in Counter(each["host"] for each in hellos).items():
        available = next(each["cores"] for each in hellos if each["host"] == host)
        if number > 1:
            notes.append(f"{number} learners and their actors share the {available} cores of {host}")
    return notes


def _open(store: "Store", rank: int, size: int) -> None:
    """Connects the ranks to each other."""
    import torch.distributed as dist

    _take_gpu()
    dist.init_process_group(
        "gloo",
        store=dist.PrefixStore("collectives", store),  # type: ignore[attr-defined]
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=_CONNECT_SECONDS),
    )
    # From here on a learner may wait for hours, for an evaluation or a slow environment; the group notices lost ranks.
    dist.distributed_c10d._set_pg_timeout(timedelta(days=365))


def _take_gpu() -> None:
    """On a machine with several GPUs, limits this rank to its own: "cuda" is then a different GPU in each rank."""
    import torch

    local, number = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if local and number > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(number)))
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[local % number]
