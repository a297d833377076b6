"""What runs one actor, in a thread or in a process, and replaces it when it is lost."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np

from troupe.config import TroupeError
from troupe.environments import VectorEnvironment
from troupe.runtime.acting.actor import Actor
from troupe.runtime.acting.actor_plan import ActorPlan, Rollouter
from troupe.runtime.data.buffers import RolloutBuffers
from troupe.runtime.data.queue import RolloutQueue
from troupe.runtime.data.rollout import Rollout
from troupe.runtime.execution.gate import Closed, Gate, Retired
from troupe.runtime.execution.hang_detector import HangDetector, hung, stack_of
from troupe.runtime.execution.interruption import POLL_SECONDS
from troupe.runtime.execution.processes import ActorLost, ActorProcess
from troupe.runtime.execution.worker_counts import ReadyLatch, WorkerCounts
from troupe.runtime.journal import NoJournal
from troupe.runtime.learning.hogwild import Worker
from troupe.runtime.progress import WAIT, Progress, Stopwatch

Deliver = Callable[[Rollout], None]
Deliverer = Callable[[Deliver], None]


@dataclass(frozen=True)
class ActorContext:
    """What all runners of a run share. A runner works while `workers` wants it, fills rollouts of `buffers`, records
    each in the `journal`, and counts what its actor plays in `progress`."""

    progress: Progress
    gate: Gate
    workers: WorkerCounts
    ready: ReadyLatch  # a process waits here for the others, so that none plays more than the rest
    most_restarts: int
    hang_seconds: float
    journal: NoJournal
    buffers: RolloutBuffers
    lock: threading.Lock = field(default_factory=threading.Lock)

    def replace(self, number: int, why: str) -> None:
        """Counts and reports that actor `number` is replaced; raises TroupeError after `most_restarts` of these.

        The first line of `why` is the reason; a stack may follow.
        """
        reason, _, stack = why.partition("\n")
        where = f"; it was in\n{stack}" if stack else ""
        with self.lock:
            if self.progress.counts.restarts >= self.most_restarts:
                limit = f"; no more actors are replaced: {self.most_restarts} is this run's actor.restarts"
                raise TroupeError(f"{reason}{limit if self.most_restarts else ''}{where}")
            self.progress.restart(f"actor-{number}: {reason}; another takes its place{where}")


class ActorRunner(Protocol):
    """Runs one actor, wherever that is. Its `run` has a thread of its own here."""

    queue: RolloutQueue  # where its empty rollouts come from: `context.buffers.queues[number]`

    @property
    def number(self) -> int:
        """The plan's."""

    @property
    def watch(self) -> Stopwatch:
        """What the actor spends its time on."""

    def run(self, deliver: Deliver) -> None:
        """Calls `deliver` with each filled rollout until a call raises Closed, at the run's end, and does not catch
        that. A rollout has the actor's number, a generation (how often the actor has been replaced) and an index."""

    def successor(self) -> Deliverer | None:
        """Called repeatedly: the work for a second thread if the first hangs and is abandoned, else None."""

    def close(self) -> None:
        """Closes the environments, once `run` has ended."""


class ThreadRunner:
    """An actor in a thread of its own."""

    def __init__(self, plan: ActorPlan, context: ActorContext):
        self.number, self.queue = plan.number, context.buffers.queues[plan.number]
        self._plan, self._context = plan, context
        self._reset_hang_detector()
        self._generation, self._index = 0, 0
        self._collecting = threading.Lock()  # held for a rollout, and while the environments are lent
        self._thread: threading.Thread | None = None
        self.actor = self._build()

    def run(self, deliver: Deliver) -> None:
        """The thread's whole work, until the run is over or another takes its place."""
        generation, self._thread = self._generation, threading.current_thread()
        while True:
            self._context.workers.wait("actors", self.number)
            try:
                self.collect(deliver)
            finally:
                if self._generation != generation:
                    raise Retired  # whatever it raised: another thread has replaced it

    def collect(self, deliver: Deliver) -> None:
        """Fills one empty rollout and delivers it."""
        actor, self._thread = self.actor, threading.current_thread()
        actor.watch.start(WAIT)
        rollout = self.queue.acquire()
        actor.watch.start("other")
        rollout.actor, rollout.generation, rollout.index = self.number, self._generation, self._index
        with self._collecting:
            actor.collect(rollout)
        self._index += 1
        self._context.journal.rollout(rollout)
        actor.watch.start(WAIT)
        deliver(rollout)

    def lend(self) -> VectorEnvironment:
        """The actor's environments, to be used only inside `lent`, or after the run."""
        assert isinstance(self.actor, Actor)
        return self.actor.lend()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Holds the actor between two rollouts while its environments are used elsewhere; it then begins new
        episodes."""
        assert isinstance(self.actor, Actor)
        while not (held := self._collecting).acquire(timeout=POLL_SECONDS):
            if self._context.gate.stopped:
                raise Closed
        try:
            yield
        finally:
            try:
                if not self._context.gate.stopped:
                    self.actor.begin_anew()
            finally:
                held.release()

    def state(self) -> dict[str, Any] | None:
        """What `restore` needs, between two rollouts; None if the actor cannot be restored."""
        assert not isinstance(self.actor, Worker)
        state = self.actor.state()
        return None if state is None else state | {"index": self._index}

    def restore(self, state: Mapping[str, Any]) -> list[str]:
        assert not isinstance(self.actor, Worker)
        self._index = state["index"]
        return self.actor.restore(state)

    @property
    def watch(self) -> Stopwatch:
        return self.actor.watch

    def close(self) -> None:
        self.actor.close()

    def successor(self) -> Deliverer | None:
        """The thread of an environment that hangs cannot be ended. It keeps the rollout it has, and ends by itself if
        its environment ever answers."""
        if not self._hang_detector.hangs():
            return None
        assert self._thread is not None
        stack = stack_of(self._thread)
        self._generation += 1
        self._collecting = threading.Lock()  # the thread that hangs keeps the old one
        self.actor.retire()
        self._reset_hang_detector()
        return partial(self._take_over, hung(self._plan.source.value.id, self._context.hang_seconds, stack))

    def _take_over(self, why: str, deliver: Deliver) -> None:
        """The work of the thread that takes the place of one that hangs."""
        generation, self._thread = self._generation, threading.current_thread()
        self._context.replace(self.number, why)
        self.queue.release([self._context.buffers.new()])
        try:
            actor = self._build()
        finally:
            if self._generation != generation:
                raise Retired  # this one hung, too
        self.actor = actor
        self.run(deliver)

    def _reset_hang_detector(self) -> None:
        self._pulse = np.zeros(1)
        self._hang_detector = HangDetector(self._pulse, self._context.hang_seconds)

    def _build(self) -> Rollouter:
        return self._plan.build(self._generation, self._context.progress, self._context.gate, self._pulse)


class ProcessRunner:
    """An actor in a process, and the thread here that exchanges rollouts with it."""

    def __init__(self, actor: ActorProcess, context: ActorContext):
        self.number, self.queue = actor.number, context.buffers.queues[actor.number]
        self.actor, self._context = actor, context
        self._index = 0

    def run(self, deliver: Deliver) -> None:
        try:
            while True:
                self._context.workers.wait("actors", self.number)
                try:
                    self._play(deliver)
                except ActorLost as loss:
                    self._context.replace(self.number, str(loss))
                    self.actor.close()
                    self.queue.release(list(self.actor.waiting.values()))
                    self.actor.waiting.clear()
                    self.actor.generation += 1
        finally:
            self.actor.close()

    @property
    def watch(self) -> Stopwatch:
        return self.actor.watch

    def successor(self) -> None:
        """None: the thread here does not hang, and replaces a process that does."""

    def close(self) -> None:
        self.actor.close()

    def _play(self, deliver: Deliver) -> None:
        actor, context = self.actor, self._context
        actor.start(context.hang_seconds)
        context.ready.add(self.number)
        context.ready.wait()
        while True:
            if not actor.waiting:
                context.workers.wait("actors", self.number)
                actor.request(self.queue.acquire(), context.progress.counts)
            if actor.wants_more and context.workers.wanted("actors", self.number):
                # Never wait for an empty rollout while a full one may be on its way here.
                another = self.queue.acquire_within(0.0)
                if another is not None:
                    actor.request(another, context.progress.counts)
            rollout, delta = actor.receive(context.hang_seconds)
            context.progress.add(delta)
            if rollout is not None:
                rollout.actor, rollout.generation, rollout.index = self.number, actor.generation, self._index
                self._index += 1
                context.journal.rollout(rollout)
                deliver(rollout)
