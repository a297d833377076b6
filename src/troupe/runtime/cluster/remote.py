"""One host as the run sees it: its calls in flight, and how long it has been silent."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cloudpickle

from troupe.environments.lookup.packages import pip_command
from troupe.runtime.acting.actor_plan import ActorPlan
from troupe.runtime.cluster.engine import Engine, Handle, HostFailed, HostLost, Node, Ticket
from troupe.runtime.cluster.host import Beat, Share
from troupe.runtime.cluster.parcel import Failure, Parcel
from troupe.runtime.progress import Counts

IN_FLIGHT = 2  # calls of `collect`: the host works on one while the run handles the answer to the other
_BEAT_SECONDS = 0.5
_SILENT_SECONDS = 6.0  # without an answer, after which a playing host counts as lost ...
_STUCK_SECONDS = 60.0  # ... and without rollouts
_OPEN_SECONDS = 180.0  # for a host to import torch and to make an environment


@dataclass(eq=False)
class RemoteHost:
    """A host first reports its versions, then opens, then plays."""

    engine: Engine
    node: Node
    share: Share
    stage: Ticket | None = None  # the pending answer, before it plays
    handle: Handle | None = None
    calls: deque[Ticket] = field(default_factory=deque)  # of `collect`, the oldest first
    undelivered: int = 0  # parcels that have arrived and wait for empty rollouts
    version: int = -1  # of the newest weights sent to it
    beat: Ticket | None = None
    paused: bool = False
    _next_beat: float = 0.0
    _silent: float = 0.0  # seconds that `stage` or `beat` has been pending
    _stuck: float = 0.0  # seconds that `calls` have been pending

    def __post_init__(self) -> None:
        self.stage = self.engine.probe(self.node)

    @property
    def plans(self) -> Sequence[ActorPlan]:
        return self.share.plans

    @property
    def plays(self) -> bool:
        return self.stage is None

    def open(self) -> None:
        """Starts its actors; its versions have been found right."""
        self.handle, self._silent = self.engine.start(self.node, len(self.plans)), 0.0
        self.stage = self.engine.call(self.handle, "open", cloudpickle.dumps(self.share))

    def opened(self) -> None:
        self.stage, self._silent = None, 0.0

    def ask_for_beat(self, now: float, *, paused: bool) -> None:
        """Asks for a heartbeat if it is time for one; with it the host pauses or continues."""
        if self.beat is None and (now >= self._next_beat or paused != self.paused):
            self.paused, self._next_beat, self._silent = paused, now + _BEAT_SECONDS, 0.0
            self.beat = self.engine.call(self.handle, "beat", paused)

    @property
    def wants_call(self) -> bool:
        return len(self.calls) + self.undelivered < IN_FLIGHT

    def ask_for_parcel(self, counts: Counts, version: int, weights: Any) -> None:
        """Asks for rollouts; `weights`, of `version`, are sent along if the host does not have them yet."""
        news = (weights,) if version != self.version else ()
        self.calls.append(self.engine.call(self.handle, "collect", counts, version, *news))
        self.version = version

    def take_beat(self, environment: str) -> Beat:
        ticket, self.beat = self.beat, None
        answer: Beat = self.engine.result(ticket)
        self._check(answer.failure, environment)
        return answer

    def take_parcel(self, environment: str) -> Parcel:
        parcel: Parcel = self.engine.result(self.calls.popleft())
        self._stuck = 0.0
        self._check(parcel.failure, environment)
        return parcel

    def pass_time(self, seconds: float) -> None:
        """Raises HostLost if an answer has been pending for too long."""
        self._silent += seconds if self.stage is not None or self.beat is not None else 0.0
        self._stuck += seconds if self.calls else 0.0
        if self._silent > (_SILENT_SECONDS if self.plays else _OPEN_SECONDS) or self._stuck > _STUCK_SECONDS:
            raise HostLost(f"it has not answered for {max(self._silent, self._stuck):.0f} s")

    def kill(self) -> None:
        if self.handle is not None:
            self.engine.kill(self.handle)

    def describe(self, failure: Failure, environment: str) -> str:
        """In one line."""
        if failure.module:
            package = f"lacks the package {failure.module}: {pip_command(failure.module)} there"
            return f"host {self.node.name} {package} (environment {environment})"
        return f"host {self.node.name}, environment {environment}: {failure.error}"

    def _check(self, failure: Failure | None, environment: str) -> None:
        if failure is not None:
            raise HostFailed(self.describe(failure, environment), failure.trace)
