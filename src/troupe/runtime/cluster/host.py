"""The host's side: its actors, in processes as on a single machine, and the parcels in which rollouts are sent."""

import math
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import cloudpickle
import numpy as np
import torch

from troupe.environments import EnvironmentSource, quiet_gymnasium
from troupe.environments.stepping.closing import close_in_time
from troupe.runtime.acting.actor_plan import ActorPlan
from troupe.runtime.cluster.parcel import SMALL_BYTES, Failure, Parcel, record_type
from troupe.runtime.data.buffers import RolloutBuffers
from troupe.runtime.data.queue import RolloutQueue
from troupe.runtime.data.rollout import FIELDS, Rollout, RolloutSpec, allocate, allocate_shared
from troupe.runtime.execution.gate import Closed, Gate
from troupe.runtime.execution.placements import process_runners
from troupe.runtime.execution.process_launch import warm_up
from troupe.runtime.execution.processes import AHEAD
from troupe.runtime.execution.runner import ActorContext
from troupe.runtime.execution.supervisor import Supervisor
from troupe.runtime.execution.worker_counts import ReadyLatch, WorkerCounts
from troupe.runtime.journal import NoJournal
from troupe.runtime.learning.weights import WeightStore
from troupe.runtime.progress import Counts, Delta, Lag, Progress
from troupe.user_code.guard import user_code

_IDLE_SECONDS = 1.0  # after which a call returns without a rollout
_BUNDLE_BYTES, _BUNDLE_SECONDS = SMALL_BYTES, 0.01  # smaller parcels wait that long for more: a call costs 1 ms
_PARCEL_BYTES = 16_000_000  # at most, unless a single rollout is larger
_CLOSE_SECONDS = 1.5
_BEGIN = -1  # stands for the first weights, which actors wait for as they do for each other


@dataclass(frozen=True)
class Share:
    """The actors of one host, and what they are made from. Their weights come with `collect`. Their generations count
    from `generation`, so that they do not repeat their predecessors on other hosts."""

    plans: Sequence[ActorPlan]
    spec: RolloutSpec
    weights: int  # how many
    generation: int
    most_restarts: int


@dataclass
class Beat:
    """A host's heartbeat. `awaited`: the actors that are not ready yet."""

    awaited: set[int] = field(default_factory=set)
    failure: Failure | None = None


class Host:
    """Plays a share of a run's actors. `open` comes first; one thread calls `collect`, another `beat` and `close`.

    No method raises: a failure is part of the answer.
    """

    _ready: ReadyLatch | None = None

    def open(self, packed: bytes) -> Failure | None:
        """Starts the actors of a Share; they wait for each other and for the first weights."""
        try:
            warm_up()
            share: Share = cloudpickle.loads(packed)
            _try_environment(share.plans[0].source.value, share.plans[0])
            self._begin(share)
        except BaseException as error:
            return Failure.of(error)
        return None

    def _begin(self, share: Share) -> None:
        numbers = [plan.number for plan in share.plans]
        slots = AHEAD * len(numbers)
        self._gate, self._pausing = Gate(shared=True), ExitStack()
        self._store = WeightStore(torch.zeros(share.weights), _BEGIN, shared=True)
        block, rollouts = allocate_shared(share.spec, slots)
        self._queue, last = RolloutQueue(rollouts), max(numbers) + 1
        buffers = RolloutBuffers(
            share.spec, self._queue, [self._queue] * last, partial(allocate, share.spec), block, slots
        )
        self._record = record_type(share.spec)
        self._most, self._bundle = parcel_sizes(share.spec, len(numbers))
        self._progress, ready = HostProgress(), ReadyLatch(self._gate, {_BEGIN, *numbers})
        hang_seconds = share.plans[0].config.actor.hang_seconds
        context = ActorContext(
            self._progress, self._gate, WorkerCounts(self._gate, last, 0, 0), ready, share.most_restarts, hang_seconds,
            NoJournal(), buffers,
        )  # fmt: skip
        plans = [replace(plan, policy_source=(plan.policy_source[0], self._store)) for plan in share.plans]  # type: ignore[index]
        self._runners = process_runners(plans, context)
        self._supervisor = Supervisor(self._gate, self._queue.close)
        self._laps: dict[int, dict[str, float]] = {}
        for runner in self._runners:
            runner.actor.generation = share.generation
            self._supervisor.start(f"actor-{runner.number}", partial(runner.run, self._queue.put))
        self._ready = ready

    def collect(self, counts: Counts, version: int, weights: np.ndarray | None = None) -> Parcel:
        """Full rollouts as soon as there are some, or none after a second. `counts` are the run's; `weights`, of
        `version`, are given if the host does not have them yet."""
        try:
            assert self._ready is not None
            self._progress.counts = counts
            if weights is not None:
                self._store.publish(torch.tensor(weights), version)
            self._ready.add(_BEGIN)
            rollouts = self._gather()
            try:
                records = np.zeros(len(rollouts), self._record)
                for name in FIELDS:
                    values = records[name]
                    for number, rollout in enumerate(rollouts):
                        values[number] = getattr(rollout, name)
                origins = [(each.actor, each.generation, each.pulls) for each in rollouts]
            finally:
                self._queue.release(rollouts)
            return Parcel(records, origins, *self._progress.take(), self._spent())
        except Closed:
            return Parcel(failure=self._failure())
        except BaseException as error:
            return Parcel(failure=Failure.of(error))

    def beat(self, paused: bool) -> Beat:
        """Answers that the host is alive, after pausing the actors or letting them play."""
        if self._ready is None:
            return Beat({_BEGIN})
        if paused and not self._gate.is_paused:
            self._pausing.enter_context(self._gate.paused())
        elif not paused:
            self._pausing.close()
        return Beat(self._ready.awaited() - {_BEGIN}, self._failure())

    def close(self) -> None:
        """Ends the actors, in order if their environments close in time."""
        if self._ready is not None:
            self._supervisor.stop(_CLOSE_SECONDS)

    def _gather(self) -> list[Rollout]:
        rollouts = self._queue.get_within(_IDLE_SECONDS, self._most)
        deadline = time.monotonic() + _BUNDLE_SECONDS
        while 0 < len(rollouts) < self._bundle and (left := deadline - time.monotonic()) > 0:
            rollouts += self._queue.get_within(left, self._most - len(rollouts))
        return rollouts

    def _spent(self) -> dict[str, float]:
        """What the actors spent their time on since the last call."""
        spent: dict[str, float] = {}
        for runner in self._runners:
            now = runner.watch.seconds
            before = self._laps.get(runner.number, {})
            self._laps[runner.number] = now
            for stage, seconds in now.items():
                spent[stage] = spent.get(stage, 0.0) + seconds - before.get(stage, 0.0)
        return spent

    def _failure(self) -> Failure | None:
        failed = self._supervisor.failure
        return Failure.of(failed.error, failed.part) if failed else None


class HostProgress(Progress):
    """Collects what the actors of a host report, for the run to count. Its own `counts` are the run's, as of the last
    call."""

    def __init__(self) -> None:
        super().__init__()
        self._deltas: deque[Delta] = deque()

    def add(self, delta: Delta) -> None:
        self._deltas.append(delta)

    def restart(self, notice: str) -> int:
        self._deltas.append(Delta(Counts(restarts=1), [], Lag(), {}))
        return super().restart(notice)

    def take(self) -> tuple[list[Delta], list[str]]:
        """The reports and the notices since the last call."""
        return _drained(self._deltas), _drained(self.notices)


def parcel_sizes(spec: RolloutSpec, actors: int) -> tuple[int, int]:
    """The largest number of rollouts in a parcel, and the smallest that is worth a call.

    The largest is one rollout for every two actors: rollouts that wait in parcels while learners are busy grow old.
    """
    size = record_type(spec).itemsize
    fewest = max(1, min(actors, _BUNDLE_BYTES // size))
    return max(fewest, min(math.ceil(actors / 2), _PARCEL_BYTES // size)), fewest


@quiet_gymnasium()
def _try_environment(source: EnvironmentSource, plan: ActorPlan) -> None:
    """Makes an environment, in this process: an exception here names a missing package."""
    with user_code():
        made = source.make(config=plan.config.env)
    close_in_time(made.close, source.id)


def _drained(items: "deque[Any]") -> list[Any]:
    return [items.popleft() for _ in range(len(items))]
