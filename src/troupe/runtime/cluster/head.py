"""The run's side of a cluster: asks hosts for rollouts, sends weights, moves the actors of a lost host to others."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from troupe.config import TroupeError, UsageError
from troupe.runtime.acting.actor_plan import ActorPlan
from troupe.runtime.cluster import versions
from troupe.runtime.cluster.engine import Engine, HostLost, Ticket
from troupe.runtime.cluster.figures import Figures
from troupe.runtime.cluster.host import Share
from troupe.runtime.cluster.machines import Machines
from troupe.runtime.cluster.parcel import Parcel, record_type
from troupe.runtime.cluster.remote import RemoteHost
from troupe.runtime.data.rollout import FIELDS, Rollout
from troupe.runtime.execution.gate import Closed
from troupe.runtime.execution.runner import ActorContext, Deliver
from troupe.runtime.learning.weights import WeightStore
from troupe.runtime.progress import Stopwatch, lag_of
from troupe.text import counted

_POLL_SECONDS = 0.05
_PAUSED_POLL_SECONDS = 0.005  # hosts must not stand still for much longer than an evaluation
_LOOK_SECONDS = 1.0  # between two checks for machines that have joined
_RETURN_SECONDS = 10.0  # without any host, after which the run ends
_CLOSE_SECONDS = 2.0
_WEIGHTS_SHARE = 0.1  # of the time, at most, is spent on copying weights; beyond that, versions are skipped


@dataclass(eq=False)
class _Arrival:
    """A parcel and its rollouts, of which the first `taken` have been delivered."""

    host: RemoteHost
    parcel: Parcel
    rollouts: np.ndarray  # [N] of `record_type`
    taken: int = 0


class ClusterRunner:
    """Runs all actors of a run, on the hosts of a cluster, from one thread.

    No call waits for a host. A host has at most two calls in flight, counting parcels that have arrived and wait for
    empty rollouts, and the rollouts in a parcel are bounded. A parcel is dropped once it has been copied.
    """

    name, number = "cluster", 0

    def __init__(self, plans: Sequence[ActorPlan], context: ActorContext, engine: Engine):
        source = plans[0].policy_source
        assert isinstance(source, tuple)
        assert isinstance(source[1], WeightStore)
        self.queue, self.watch, self.figures = context.buffers.queue, Stopwatch(), Figures()
        self._context, self._engine, self._store = context, engine, source[1]
        self._record = record_type(context.buffers.spec)
        self._vector = np.zeros(self._store.size, np.float32)
        self._shared: tuple[int, object] = (-1, None)  # version, and weights shared by all hosts
        self._next_weights = 0.0
        self._environment, self._ours = plans[0].source.value.id, versions.prober()()
        self._unplaced = [replace(plan, policy_source=(source[0], _OnItsHost())) for plan in plans]
        self._indices = {plan.number: 0 for plan in plans}
        self._hosts: list[RemoteHost] = []
        self._arrived: deque[_Arrival] = deque()
        self._machines = Machines(engine)
        self._generation, self._next_look = 0, 0.0
        self._polled = self._alone_since = time.monotonic()
        self._ending = threading.Lock()
        self._last: list[Ticket] | None = None  # of the calls that end hosts

    def open(self) -> None:
        """Starts hosts and waits until they are ready for the first rollouts. Raises UsageError if one cannot."""
        try:
            while self._unplaced or not all(host.plays for host in self._hosts):
                self._settle()
                self._receive()
                if refused := self._machines.refused:
                    raise UsageError(next(iter(refused.values())))
        except BaseException:
            self.close()
            raise

    def run(self, deliver: Deliver) -> None:
        try:
            while not self._context.gate.stopped:
                self._settle()
                self._ask()
                self._receive()
                self._hand_over(deliver)
            raise Closed
        finally:
            self._end()

    def successor(self) -> None:
        """None: this thread never hangs, and a host that does is replaced."""

    def close(self) -> None:
        """Ends all hosts: in order if they manage in time, by force otherwise."""
        tickets, end = self._end(), time.monotonic() + _CLOSE_SECONDS
        while tickets and (left := end - time.monotonic()) > 0:
            done = self._engine.wait(tickets, left)
            tickets = [ticket for ticket in tickets if ticket not in done]
        for host in self._hosts:
            host.kill()

    def _end(self) -> list[Ticket]:
        """Tells the hosts to end, once, and does not wait: that is for `close`."""
        with self._ending:
            if self._last is None:
                started = [host.handle for host in self._hosts if host.handle is not None]
                self._last = [self._engine.call(handle, "close") for handle in started]
            return self._last

    def describe(self) -> str:
        """Where the actors are: "2 hosts (a: 4 actors, b: 3)"."""
        actors = sorted(self._actors().items())
        words = ", ".join(
            f"{name}: {number if each else counted(number, 'actor')}" for each, (name, number) in enumerate(actors)
        )
        return f"{counted(len(actors), 'host')} ({words})"

    def take_row(self) -> dict[str, dict[str, float]]:
        """For metrics, by host (figures.py)."""
        return self.figures.take_row(self._actors())

    def _actors(self) -> Counter[str]:
        """The number of actors by the name of their host."""
        count: Counter[str] = Counter()
        for host in list(self._hosts):
            count[host.node.name] += len(host.plans)
        return count

    # Machines, and the actors on them

    def _settle(self) -> None:
        """Assigns actors without a host; when a machine has joined, takes some from the others for it."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_SECONDS
        if joined := self._machines.look():
            self._make_room(", ".join(node.name for node in joined))
        if not self._unplaced:
            return
        plans = sorted(self._unplaced, key=lambda plan: plan.number)
        spec, most = self._context.buffers.spec, self._context.most_restarts
        for node, count in self._machines.spread(len(plans), self._load()):
            share = Share(plans[:count], spec, len(self._vector), self._generation, most)
            self._hosts.append(RemoteHost(self._engine, node, share))
            plans = plans[count:]
        self._unplaced = plans
        self._generation += most + 1  # above every generation that actors of a host can reach there
        if self._hosts:
            self._alone_since = now
        elif now - self._alone_since >= _RETURN_SECONDS:
            why = "".join(f"; {each}" for each in self._machines.refused.values())
            raise TroupeError(f"no host is left that could run actors{why}")

    def _load(self) -> Counter[str]:
        """Actors by machine."""
        load: Counter[str] = Counter()
        for host in self._hosts:
            load[host.node.id] += len(host.plans)
        return load

    def _make_room(self, joined: str) -> None:
        """Takes the actors of machines with more actors than cores, so that they are assigned anew."""
        load, notices = self._load(), self._context.progress.notices
        crowded = [host for host in self._hosts if host.plays and load[host.node.id] > host.node.cores]
        if crowded:
            names = ", ".join(sorted({host.node.name for host in crowded}))
            notices.append(f"host {joined} has joined and takes over some of the actors of {names}")
        else:
            notices.append(f"host {joined} has joined; it gets actors when another host is lost")
        for host in crowded:
            self._give_up(host)

    def _lose(self, host: RemoteHost, why: str) -> None:
        """Counts and reports a lost host, once for all its actors. Raises TroupeError after too many."""
        progress, most = self._context.progress, self._context.most_restarts
        self._machines.avoid(host.node)
        self._give_up(host)
        lost = f"host {host.node.name} is lost: {why}"
        if progress.counts.restarts >= most:
            raise TroupeError(f"{lost}; the limit of {most} restarts (actor.restarts) is reached")
        progress.restart(f"{lost}; other hosts take over its {counted(len(host.plans), 'actor')}")

    def _refuse(self, host: RemoteHost, why: str) -> None:
        """Excludes a machine that cannot take part."""
        self._machines.refused[host.node.id] = why
        self._context.progress.notices.append(f"{why}; it is not used")
        self._give_up(host)

    def _give_up(self, host: RemoteHost) -> None:
        """Ends a host; its actors are then without one."""
        self._hosts.remove(host)
        self._arrived = deque(each for each in self._arrived if each.host is not host)
        host.kill()
        self._unplaced += host.plans
        self._next_look = 0.0

    # Calls and answers

    def _ask(self) -> None:
        """Asks hosts for heartbeats and, once all actors of the run are ready, for rollouts."""
        now, gate, begun = time.monotonic(), self._context.gate, self._context.ready.open
        for host in self._hosts:
            if host.plays:
                host.ask_for_beat(now, paused=gate.is_paused)
            while host.plays and begun and not host.paused and host.wants_call:
                host.ask_for_parcel(replace(self._context.progress.counts), *self._weights(now))

    def _weights(self, now: float) -> tuple[int, object]:
        """The newest weights, copied once for all hosts; older ones if copying takes too much of the time."""
        if self._shared[0] < 0 or (self._store.version != self._shared[0] and now >= self._next_weights):
            began = time.monotonic()
            version = self._store.pull(torch.from_numpy(self._vector), -1)
            self._shared = version, self._engine.share(self._vector)
            self._next_weights = now + (time.monotonic() - began) / _WEIGHTS_SHARE
        return self._shared

    def _receive(self) -> None:
        """Takes the answers that have arrived; waits a short time for the first."""
        awaited: dict[Ticket, tuple[RemoteHost, Callable[[RemoteHost, Ticket], None]]] = {}
        for host in self._hosts:
            if host.stage is not None:
                awaited[host.stage] = host, self._advance
            if host.beat is not None:
                awaited[host.beat] = host, self._take_beat
            if host.calls:  # only the oldest: rollouts are delivered in the order in which they were made
                awaited[host.calls[0]] = host, self._take_parcel
        if not awaited:
            time.sleep(_POLL_SECONDS)
            return
        seconds = _PAUSED_POLL_SECONDS if self._context.gate.is_paused else _POLL_SECONDS
        for ticket in self._engine.wait(list(awaited), 0.0 if self._arrived else seconds):
            host, take = awaited[ticket]
            if host in self._hosts:  # not lost a moment ago
                try:
                    take(host, ticket)
                except HostLost as loss:
                    self._lose(host, str(loss))
        self._look_for_silence()

    def _advance(self, host: RemoteHost, ticket: Ticket) -> None:
        """A host has answered with its versions, or has opened."""
        answer = self._engine.result(ticket)
        if host.handle is None:
            if wrong := versions.difference(host.node.name, answer, self._ours):
                self._refuse(host, wrong)
            else:
                host.open()
        elif answer is not None:
            self._refuse(host, host.describe(answer, self._environment))
        else:
            host.opened()

    def _take_beat(self, host: RemoteHost, _: Ticket) -> None:
        awaited = host.take_beat(self._environment).awaited
        for plan in host.plans:
            if plan.number not in awaited:
                self._context.ready.add(plan.number)

    def _take_parcel(self, host: RemoteHost, _: Ticket) -> None:
        parcel, progress = host.take_parcel(self._environment), self._context.progress
        for delta in parcel.deltas:
            progress.add(delta)
        progress.notices.extend(f"host {host.node.name}: {notice}" for notice in parcel.notices)
        self.watch.add(parcel.stage_seconds)
        if parcel.origins:
            host.undelivered += 1
            self._arrived.append(_Arrival(host, parcel, parcel.rollouts.view(self._record)))

    def _hand_over(self, deliver: Deliver) -> None:
        """Copies what has arrived into empty rollouts, as long as there are any, and delivers them."""
        while self._arrived:
            rollout = self.queue.acquire_within(_POLL_SECONDS)
            if rollout is None:
                return
            arrival = self._arrived[0]
            self._unpack(arrival, rollout)
            if arrival.taken == len(arrival.parcel.origins):
                self._arrived.popleft()
                arrival.host.undelivered -= 1
            self.figures.add(arrival.host.node.name, lag_of(rollout, self._store.version))
            self._context.journal.rollout(rollout)
            deliver(rollout)

    def _unpack(self, arrival: _Arrival, rollout: Rollout) -> None:
        """The next rollout of a parcel."""
        rollout.actor, rollout.generation, rollout.pulls = arrival.parcel.origins[arrival.taken]
        for name in FIELDS:
            getattr(rollout, name)[...] = arrival.rollouts[name][arrival.taken]
        rollout.index = self._indices[rollout.actor]  # counted here, as each host starts from 0
        self._indices[rollout.actor] += 1
        arrival.taken += 1

    def _look_for_silence(self) -> None:
        """Gives up hosts that have not answered. Time in which this process was itself stopped (Ctrl-Z) is left out."""
        now = time.monotonic()
        passed, self._polled = min(now - self._polled, 4 * _POLL_SECONDS), now
        for host in list(self._hosts):
            try:
                host.pass_time(passed)
            except HostLost as loss:
                self._lose(host, str(loss))


class _OnItsHost:
    """Replaces the weights in a plan that is sent to a host, which has a store of its own."""

    version = -1

    def pull(self, into: Float[Tensor, " P"], have: int) -> int:
        raise NotImplementedError
