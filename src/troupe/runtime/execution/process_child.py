"""An actor's process, and the messages between it and the run; it ends when the run does, however that ends.

A request names the slot of an empty rollout. The process fills that slot, in memory that both share, and reports what
it counted meanwhile. Nothing is pickled.
"""

import faulthandler
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait

import msgspec
import torch

from troupe import signals
from troupe.config import one_line, printable
from troupe.environments import quiet_gymnasium
from troupe.runtime.acting.actor_plan import ActorPlan
from troupe.runtime.data.rollout import slots
from troupe.runtime.data.shared_memory import Block
from troupe.runtime.execution.gate import Closed, RemoteGate
from troupe.runtime.progress import WAIT, Counts, Delta, Lag, Progress


@dataclass(slots=True)
class Request:
    """To the process: fill this slot. Epsilon, learning rate and the limit of failures depend on the counts."""

    slot: int
    played: int
    steps: int
    updates: int
    failures: int = 0


@dataclass(slots=True)
class Report:
    """From the process: the slot is full. Slot -1: it is ready to play, or has failed."""

    slot: int
    delta: Delta
    pulls: list[tuple[int, int]] = field(default_factory=list)
    stage_seconds: dict[str, float] = field(default_factory=dict)
    error: str = ""
    trace: str = ""


encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(Request).decode
decode_report = msgspec.msgpack.Decoder(Report).decode
NOTHING = Delta(Counts(), [], Lag(), {})


@quiet_gymnasium()
def run_actor(
    connection: Connection,
    stacks: Connection,
    plan: ActorPlan,
    block: Block,
    number_of_slots: int,
    switches: Block,
    pulses: Block,
    generation: int,
    variables: Mapping[str, str],
) -> None:
    """Fills the requested slots until the pipe is closed."""
    os.environ.update(variables)  # the server has those of its own start
    leave_the_terminal()
    die_with_the_parent()
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1, file=stacks.fileno(), all_threads=False)
    # The library forbids its daemons to have processes of their own; an environment may need some.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    torch.set_num_threads(1)
    rollouts, progress, gate = slots(block, number_of_slots), Progress(), RemoteGate(switches)
    actor = None
    try:
        pulse = pulses["pulse"][plan.number : plan.number + 1]
        plan.seed_process(generation)
        plan.source.value  # noqa: B018  # importing has no time limit; making and resetting environments has
        pulse[0] = time.monotonic()  # until the actor takes it over
        actor = plan.build(generation, progress, gate, pulse)
        connection.send_bytes(encode(Report(-1, NOTHING)))
        while True:
            actor.watch.start(WAIT)
            request = decode_request(connection.recv_bytes())
            actor.watch.start("other")
            before = Counts(request.steps, request.played, updates=request.updates, failures=request.failures)
            progress.counts = replace(before)
            actor.collect(rollouts[request.slot])
            seconds, delta, pulls = actor.watch.take(), progress.take_delta(before), rollouts[request.slot].pulls
            connection.send_bytes(encode(Report(request.slot, delta, pulls, seconds)))
    except (EOFError, ConnectionError, Closed):
        pass
    except BaseException as error:
        with suppress(OSError):
            trace = printable(traceback.format_exc())
            connection.send_bytes(encode(Report(-1, NOTHING, error=one_line(error), trace=trace)))
    finally:
        if actor is not None:
            logging.getLogger("troupe").disabled = True  # the parent reports what goes wrong in closing
            with suppress(Exception):  # the parent no longer reads
                actor.close()


def leave_the_terminal() -> None:
    """Ctrl-C goes to the terminal's group of processes; this one, with those its environments start, has its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.ENDING)


def die_with_the_parent() -> None:
    """However the parent ends, this process does too, and those that its environments have started."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    if sys.platform == "linux":
        # By the kernel, when no process holds the other end of this pipe any more: an environment may be in a
        # call that keeps the interpreter's lock, and then no thread here could notice.
        import fcntl

        fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, -os.getpid())  # the whole group
        fcntl.fcntl(parent.sentinel, fcntl.F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(parent.sentinel, fcntl.F_GETFL)
        fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)
    threading.Thread(target=_follow, args=(parent.sentinel, parent.pid), daemon=True).start()


def _follow(sentinel: int, pid: int | None) -> None:
    ends = [sentinel]
    if hasattr(os, "pidfd_open"):
        # The pipe alone is not enough: what the parent forks, its own environments perhaps, holds it too.
        with suppress(OSError):
            ends.append(os.pidfd_open(pid or 0))
    wait(ends)
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
