"""The group of several learners, each in a process of its own ("rank"), by torch.distributed.

The ranks communicate in two ways. What every learner needs for its next update goes through collective operations, in
the learners' threads. Everything else is a message in the store in which the ranks met, sent by a thread of its own:
heartbeats with the latest counts, failures, and the end. So a lost rank is noticed while a learner waits for it.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from troupe.algorithm.returns import AdvantageEMA, JoinedAdvantages
from troupe.config import TroupeError, one_line
from troupe.runtime.execution.gate import Closed
from troupe.runtime.execution.interruption import POLL_SECONDS
from troupe.runtime.execution.supervisor import Supervisor
from troupe.runtime.learning.group import Alone
from troupe.runtime.learning.weights import HogwildMaster, Master
from troupe.runtime.progress import Counts, Delta, Lag, Progress

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_POLL = timedelta(seconds=0.1)  # how often a wait for other learners checks whether the run has ended
_BEAT_SECONDS = 0.5  # between two heartbeats
_SILENT_SECONDS = 20.0  # without a heartbeat, until a rank counts as lost ...
_BROKEN_SECONDS = 3.0  # ... and after a connection broke: a rank has ended, and it shows soon which
_START_SECONDS = 300.0  # until the first heartbeat
_SUMMED = ("steps", "played", "episodes", "stale", "restarts", "failures")  # not updates, which all ranks make together

Operation = Callable[[Tensor], dist.Work]  # in which all ranks take part
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Delta).decode


class RankGroup(Alone):
    """`all_reduce` sums a tensor over the ranks, `broadcast` copies that of rank 0 to all; both in place, on the CPU.

    `names` are the ranks' names in messages, in order; `notes` is what a user may want to know about them. `ended` says
    how the process of a rank that this one started has ended; "" while it runs.
    """

    def __init__(
        self,
        store: "Store",
        all_reduce: Operation,
        broadcast: Operation,
        rank: int,
        names: Sequence[str],
        notes: Sequence[str] = (),
        ended: Callable[[int], str] = lambda _: "",
    ):
        self.rank, self.size, self.names, self.notes = rank, len(names), names, notes
        self._store, self._process_ended = store, ended
        self._all_reduce, self._broadcast = all_reduce, broadcast
        self._others = range(1, self.size) if rank == 0 else range(1)  # whose heartbeats are watched
        self._seen = dict.fromkeys(self._others, time.monotonic() + _START_SECONDS)
        self._beats = dict.fromkeys(self._others, 0)
        self._sent, self._due = 0, 0.0
        self._known = Counts()
        self._oldest: int | None = None  # the master's `oldest`, as last sent to the others
        self._broken: tuple[float, BaseException] | None = None
        self._woken = threading.Event()
        self._watched, self._ahead = False, False
        self.ended_in_order, self.lost = False, False  # by rank 0; another rank was lost

    def begin(self, counts: Counts) -> None:
        """`counts` are those with which every rank starts."""
        self._known = replace(counts)

    # By the learners

    def follow(self, master: Master | HogwildMaster) -> None:
        if self._ahead:
            self._ahead = False
            return
        news = torch.tensor([float(self.rank == 0 and master.oldest != self._oldest)])
        self._finish(self._broadcast(news))
        if not news:
            return
        assert isinstance(master, Master)
        with master.lock:
            state, factor = master.state(), torch.tensor([master.step_factor], dtype=torch.float64)
            for each in (master.vector, *state.values(), factor):
                here = each.cpu()
                self._finish(self._broadcast(here))
                each.copy_(here)
            master.load(state)  # rank 0 as well: statistics must be divided among writers in the same way
            master.step_factor = float(factor)
            if self.rank:
                master.oldest = master.publish()
            self._oldest = master.oldest

    def follow_first(self, master: Master | HogwildMaster) -> None:
        """Copies the first weights before any actor plays: the learner's first call of `follow`, ahead of time."""
        self.follow(master)
        self._ahead = True

    def count(self, progress: Progress) -> None:
        now, _ = progress.state()
        own = [getattr(now, name) - getattr(self._known, name) for name in _SUMMED]
        together = self.total(torch.tensor(own)).tolist()
        others = {name: all_ - mine for name, all_, mine in zip(_SUMMED, together, own, strict=True)}
        progress.add(Delta(Counts(**others), [], Lag(), {}))
        self._known = replace(now, **{name: getattr(now, name) + number for name, number in others.items()})

    def total(self, values: Tensor) -> Tensor:
        total = values.cpu().contiguous()  # between GPUs as well: gloo adds in main memory
        self._finish(self._all_reduce(total))
        return total.to(values.device)

    def mean(self, values: Tensor, rows: int) -> Tensor:
        total = self.total(torch.cat([values * rows, values.new_tensor([rows])]))
        return total[:-1] / total[-1].clamp(min=1)

    def gather(self, parts: Float[Tensor, "W ..."]) -> None:
        own = torch.zeros_like(parts)
        own[self.rank] = parts[self.rank]
        parts.copy_(self.total(own))

    def joined(self, ema: AdvantageEMA) -> JoinedAdvantages:
        return JoinedAdvantages(ema, self.total)

    def _finish(self, work: dist.Work) -> None:
        """Waits for an operation in which all ranks take part. Raises Closed once the run has ended."""
        while not self._is_done(work):
            if self._woken.is_set():
                raise Closed

    def _is_done(self, work: dist.Work) -> bool:
        with suppress(RuntimeError):  # time is up, or it has failed
            work.wait(_POLL)
        if not work.is_completed():
            return False
        try:
            work.wait()  # returns at once; the time may have been up just before the end
            return True
        except RuntimeError as error:
            self._broken = time.monotonic(), error
        self._woken.wait()  # `watch` finds out which rank is lost
        raise Closed

    # Messages

    def send_start(self, start: bytes) -> None:
        """Rank 0 sends the others what the run begins with."""
        self._put("start", start)

    def receive_start(self) -> bytes | None:
        """What rank 0 has sent; None where it has ended the run instead. Raises TroupeError where it is lost."""
        try:
            while not self._store.check(["start"]):
                if self._store.check(["end"]):
                    return None
                time.sleep(POLL_SECONDS)
            return self._store.get("start")
        except RuntimeError as error:
            raise TroupeError(f"the connection to {self.names[0]} broke: {one_line(error)}") from error

    def watch(self, supervisor: Supervisor, progress: Progress) -> None:
        if not self._watched:
            self._watched = True
            supervisor.start("ranks", partial(self._watch, supervisor, progress))

    def _watch(self, supervisor: Supervisor, progress: Progress) -> None:
        while not self._woken.wait(POLL_SECONDS):
            try:
                if self.rank and self._store.check(["end"]):
                    self.ended_in_order = True
                    supervisor.end()
                else:
                    self._look(supervisor, progress)
            except RuntimeError as error:  # the store was in the process of rank 0
                self.lost = True
                supervisor.fail(self.names[0], TroupeError(f"the connection to it broke: {one_line(error)}"))
        raise Closed

    def _look(self, supervisor: Supervisor, progress: Progress) -> None:
        now = time.monotonic()
        if now >= self._due:
            self._due = now + _BEAT_SECONDS
            self._send(progress)
            for rank in self._others:
                self._receive(rank, progress)
        for rank in self._others:
            if wrong := self._wrong(rank):
                self.lost = True
                supervisor.fail(self.names[rank], wrong)
        if self._broken and now > self._broken[0] + 2 * _BROKEN_SECONDS:
            self.lost = True
            supervisor.fail("the connection between learners", self._broken[1])

    def wake(self) -> None:
        if not self._woken.is_set():
            self._woken.set()
            if self.rank == 0:
                with suppress(RuntimeError):
                    self._store.set("end", "")

    def fail(self, message: str, trace: str = "") -> None:
        """Reports to rank 0 why this rank has failed, and waits until rank 0 has ended the run."""
        with suppress(RuntimeError):
            self._put(f"failed/{self.rank}", msgspec.json.encode((message, trace)))
            deadline = time.monotonic() + _SILENT_SECONDS
            while not self._store.check(["end"]) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)

    def _put(self, key: str, value: bytes) -> None:
        self._store.set(key, value)  # type: ignore[arg-type]  # it takes bytes as well

    def _send(self, progress: Progress) -> None:
        self._sent += 1
        if self.rank == 0:
            self._store.set("beat/0", str(self._sent))
            return
        delta = progress.take_delta(progress.counts)  # the counts themselves are added up by `count`
        texts = [progress.notices.popleft() for _ in range(len(progress.notices))]
        delta.notices = {text: f"{self.names[self.rank]}: {text}" for text in texts}
        self._put(f"beat/{self.rank}/{self._sent}", _encode(delta))

    def _receive(self, rank: int, progress: Progress) -> None:
        before = self._beats[rank]
        if rank == 0:
            if self._store.check(["beat/0"]):
                self._beats[0] = int(self._store.get("beat/0"))
        else:
            while self._store.check([key := f"beat/{rank}/{self._beats[rank] + 1}"]):
                progress.add(_decode(self._store.get(key)))
                self._store.delete_key(key)
                self._beats[rank] += 1
        if self._beats[rank] != before:
            self._seen[rank] = time.monotonic()

    def _wrong(self, rank: int) -> TroupeError | None:
        """Why `rank` is lost; None if it is not."""
        if rank:
            ended = self._process_ended(rank)  # read first: a rank reports why it failed before its process ends
            if self._store.check([f"failed/{rank}"]):
                message, trace = msgspec.json.decode(self._store.get(f"failed/{rank}"), type=tuple[str, str])
                error = TroupeError(message)
                error.add_note(trace)
                return error
            if ended:
                return TroupeError(ended)
        silent = time.monotonic() - self._seen[rank]
        if silent > (_BROKEN_SECONDS if self._broken else _SILENT_SECONDS):
            return TroupeError(f"there has been no sign of life from it for {silent:.0f} s")
        return None
