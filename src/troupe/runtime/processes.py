"""Actors in processes: the process itself, and the stand-in that owns it here.

A stand-in sends the number of an empty rollout's slot down a pipe; the process fills that slot, in
memory both share, and sends the number back with what it has counted. Nothing is pickled on the way,
and no lock is shared: a process can be killed at any moment, and nothing else notices but its stand-in.
"""

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

import msgspec
import torch

from troupe.config import TroupeError, UsageError
from troupe.runtime.gate import Closed, Gate, RemoteGate
from troupe.runtime.plan import ActorPlan
from troupe.runtime.progress import Counts, Lag, Progress, Share, Stopwatch
from troupe.runtime.rollout import Rollout, slots
from troupe.runtime.shared import Block

_LOOK_SECONDS = 0.1
_CLOSE_SECONDS = 0.6  # for an environment to close in order before its process is killed
_AHEAD = 2  # slots a process has at a time: while one is on its way back, it fills the other


@dataclass(slots=True)
class Request:
    """To the process: fill this slot. The counts are what epsilon and step size go by."""

    slot: int
    played: int
    steps: int


@dataclass(slots=True)
class Report:
    """From the process: the slot is full. Slot -1: it is ready to play, or has failed."""

    slot: int
    share: Share
    pulls: list[tuple[int, int]] = field(default_factory=list)
    laps: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    error: str = ""
    trace: str = ""


_encode = msgspec.msgpack.Encoder().encode
_decode_request = msgspec.msgpack.Decoder(Request).decode
_decode_report = msgspec.msgpack.Decoder(Report).decode
_NOTHING = Share(Counts(), [], Lag())


class Lost(Exception):
    """The process of an actor is gone, or had to be killed; another can take its place."""


class ActorFailed(TroupeError):
    """What an actor raised in its process; `trace` is the traceback from there."""

    def __init__(self, message: str, trace: str):
        super().__init__(message)
        self.add_note(f"in the actor's process:\n{trace}")


class RemoteActor:
    """The stand-in for an actor in a process of its own; used by one thread, which owns it."""

    def __init__(self, plan: ActorPlan, block: Block, number_of_slots: int, gate: Gate, pulses: Block):
        self.number = plan.number
        self._plan, self._block, self._number_of_slots = plan, block, number_of_slots
        self._gate, self._pulses = gate, pulses
        self._process: multiprocessing.process.BaseProcess | None = None
        self.generation = 0
        self.waiting: dict[int, Rollout] = {}  # slots the process has
        self.watch = Stopwatch()
        self.metrics: Mapping[str, float] = {}

    def start(self) -> None:
        """Starts the process and waits until it is ready to play."""
        context = _context()
        self._connection, theirs = context.Pipe()
        self._stacks, stack_writer = context.Pipe(duplex=False)
        arguments = (
            theirs, stack_writer, self._plan, self._block, self._number_of_slots, self._gate.switches, self._pulses,
            self.generation,
        )  # fmt: skip
        with _no_main():
            self._process = context.Process(target=play, args=arguments, name=f"actor-{self.number}", daemon=True)
            self._process.start()
        theirs.close()
        stack_writer.close()
        self.receive(hang_seconds=0.0)

    @property
    def wants_more(self) -> bool:
        return len(self.waiting) < _AHEAD

    def ask(self, rollout: Rollout, counts: Counts) -> None:
        """Hands an empty rollout to the process."""
        self.waiting[rollout.slot] = rollout
        try:
            self._connection.send_bytes(_encode(Request(rollout.slot, counts.played, counts.steps)))
        except OSError:
            raise Lost(self._farewell()) from None

    def receive(self, hang_seconds: float) -> tuple[Rollout | None, Share]:
        """The next rollout that the process has filled, and what it counted meanwhile.

        Raises Lost when the process is dead, or has been killed for an environment that did not answer
        for `hang_seconds` (0: any time); ActorFailed with what the actor raised; Closed at the end of the run.
        """
        while not self._connection.poll(_LOOK_SECONDS):
            if self._gate.stopped:
                raise Closed
            asked = self._pulses["pulse"][self.number]
            if hang_seconds and asked and time.monotonic() - asked > hang_seconds:
                raise Lost(self._hung(hang_seconds))
        try:
            report = _decode_report(self._connection.recv_bytes())
        except (EOFError, OSError):
            raise (Closed if self._gate.stopped else Lost(self._farewell())) from None
        if report.error:
            raise ActorFailed(report.error, report.trace)
        self.watch.add(report.laps)
        self.metrics = report.metrics or self.metrics
        rollout = self.waiting.pop(report.slot, None)
        if rollout is not None:
            rollout.pulls = report.pulls
        return rollout, report.share

    def stop(self) -> None:
        """Ends the process: in order where the environment lets it, and by force where it does not."""
        if self._process is None:
            return
        self._connection.close()
        self._process.join(_CLOSE_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._stacks.close()
        self._process = None
        self._pulses["pulse"][self.number] = 0.0

    def close(self) -> None:
        self.stop()

    def _farewell(self) -> str:
        assert self._process is not None
        self._process.join(_CLOSE_SECONDS)
        code = self._process.exitcode
        how = "stopped answering" if code is None else f"ended with status {code}"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        return f"its process {how}"

    def _hung(self, seconds: float) -> str:
        assert self._process is not None
        stack = ""
        if hasattr(signal, "SIGUSR1"):
            os.kill(self._process.pid or 0, signal.SIGUSR1)
            if self._stacks.poll(1.0):
                stack = os.read(self._stacks.fileno(), 65536).decode(errors="replace")
        self._process.kill()
        return hung(self._plan.source.value.id, seconds, stack.splitlines()[1:])


def hung(environment: str, seconds: float, stack: Sequence[str]) -> str:
    """What to say of an environment that does not answer: its own part of the stack, innermost call first."""
    own = [line.strip() for line in stack]
    ours = next((i for i, line in enumerate(own) if "troupe" in line and "vector.py" in line), len(own))
    return "\n    ".join([f"environment {environment} has not answered for {seconds:g} s; it stands in", *own[:ours]])


def check_sendable(plan: ActorPlan) -> None:
    """Raises UsageError where the environment or the network cannot be sent to a process."""
    parts = {f"environment {plan.source.value.id}": plan.source}
    if isinstance(plan.brain, tuple):
        parts["network"] = plan.brain[0]
    for name, part in parts.items():
        try:
            part.__getstate__()
        except Exception as error:
            message = " ".join(str(error).split())
            raise UsageError(
                f"{name} cannot be sent to actor processes: {type(error).__name__}: {message}; make inside the "
                "factory what it holds from outside (files, locks, connections), or set actor.place to thread"
            ) from error


def warm_up() -> None:
    """Gets ready to start processes, in the background: what they have in common is imported once."""
    if _method() == "forkserver":
        from multiprocessing import forkserver

        forkserver.set_forkserver_preload([__name__])
        forkserver.ensure_running()


def _method() -> str:
    # Forking a server that has no threads and has imported torch takes 20 ms; a new interpreter 1.5 s.
    return "forkserver" if sys.platform == "linux" else "spawn"


def _context() -> Any:
    warm_up()
    return multiprocessing.get_context(_method())


_starting = threading.Lock()


@contextmanager
def _no_main() -> Iterator[None]:
    """multiprocessing would import the user's script anew in every process, to find there what has been
    pickled by name. Nothing has: so a script needs no `if __name__ == "__main__"`."""
    with _starting:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def play(
    connection: Connection,
    stacks: Connection,
    plan: ActorPlan,
    block: Block,
    number_of_slots: int,
    switches: Block,
    pulses: Block,
    generation: int,
) -> None:
    """The whole life of an actor's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches us too; the parent says what to do
    threading.Thread(target=_follow_the_parent, daemon=True).start()
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1, file=stacks.fileno(), all_threads=False)
    # The library forbids its daemons to have processes of their own; an environment may need some.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    torch.set_num_threads(1)
    rollouts, progress, gate = slots(block, number_of_slots), Progress(), RemoteGate(switches)
    actor = None
    try:
        actor = plan.build(generation, progress, gate, pulses["pulse"][plan.number : plan.number + 1])
        connection.send_bytes(_encode(Report(-1, _NOTHING)))
        while True:
            request = _decode_request(connection.recv_bytes())
            before = Counts(steps=request.steps, played=request.played)
            progress.counts = Counts(steps=request.steps, played=request.played)
            actor.watch.lap("wait")
            actor.collect(rollouts[request.slot])
            laps, metrics = actor.watch.take(), {name: float(value) for name, value in actor.metrics.items()}
            share, pulls = progress.take_share(before), rollouts[request.slot].pulls
            connection.send_bytes(_encode(Report(request.slot, share, pulls, laps, metrics)))
    except (EOFError, ConnectionError, Closed):
        pass
    except BaseException as error:
        message = " ".join(str(error).split())
        text = message if isinstance(error, TroupeError) else f"{type(error).__name__}: {message}"
        with suppress(OSError):
            connection.send_bytes(_encode(Report(-1, _NOTHING, error=text, trace=traceback.format_exc())))
    finally:
        if actor is not None:
            actor.close()


def _follow_the_parent() -> None:
    """However the parent ends, this process does too, even from within an environment's step."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
