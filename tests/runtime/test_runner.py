"""Who runs an actor: every rollout has its origin, and one that is lost is replaced and counted."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from helpers import PATIENCE_SECONDS
from troupe.config import TroupeError
from troupe.runtime.data.queue import RolloutQueue
from troupe.runtime.execution.gate import Closed, Gate, Retired
from troupe.runtime.execution.processes import ActorLost
from troupe.runtime.execution.runner import ActorContext, ProcessRunner
from troupe.runtime.execution.worker_counts import ReadyLatch, WorkerCounts
from troupe.runtime.progress import Counts, Delta, Lag, Progress, Stopwatch


class Noted:
    """A journal that keeps what it is told."""

    def __init__(self) -> None:
        self.rollouts: list[tuple[int, int, int]] = []

    def rollout(self, rollout: Any) -> None:
        self.rollouts.append((rollout.actor, rollout.generation, rollout.index))


def context(actors: int = 2, restarts: int = 3, awaited: Any = ()) -> ActorContext:
    gate = Gate()
    slots = [SimpleNamespace(slot=slot, actor=-1, generation=-1, index=-1) for slot in range(4)]
    queue = RolloutQueue(slots)
    buffers = SimpleNamespace(queue=queue, queues=[queue] * actors)
    counts, ready = WorkerCounts(gate, actors, 0, 1), ReadyLatch(gate, awaited)
    return ActorContext(Progress(), gate, counts, ready, restarts, 9.0, Noted(), buffers)


# Replacements are counted


def test_a_replaced_actor_is_counted_and_the_notice_says_why_and_where_it_was():
    shared = context()
    shared.replace(3, "it hangs\n  in step\n  in run")
    shared.replace(0, "it died")
    assert list(shared.progress.notices) == [
        "actor-3: it hangs; another takes its place; it was in\n  in step\n  in run",
        "actor-0: it died; another takes its place",
    ]
    assert shared.progress.counts.restarts == 2


def test_beyond_the_limit_nobody_is_replaced_and_the_error_says_so():
    shared = context(restarts=1)
    shared.replace(0, "it died")
    with pytest.raises(TroupeError) as error:
        shared.replace(1, "it hangs\n  in step")
    said = "it hangs; no more actors are replaced: 1 is this run's actor.restarts; it was in\n  in step"
    assert str(error.value) == said
    assert shared.progress.counts.restarts == 1


def test_where_no_actor_is_ever_replaced_the_reason_stands_alone():
    with pytest.raises(TroupeError, match=r"^it died$"):
        context(restarts=0).replace(0, "it died")


# An actor in a process, played by the test


class Process:
    """Fills its slots in order; `fates` says what happens instead: an exception, or nothing."""

    def __init__(self, number: int = 1, ahead: int = 2, fates: Any = ()):
        self.number, self.generation, self.watch = number, 0, Stopwatch()
        self.waiting: dict[int, Any] = {}
        self._ahead, self._fates = ahead, list(fates)
        self.calls: list[Any] = []

    def start(self, hang_seconds: float) -> None:
        self.calls.append(("start", hang_seconds))

    @property
    def wants_more(self) -> bool:
        return len(self.waiting) < self._ahead

    def request(self, rollout: Any, counts: Counts) -> None:
        self.calls.append(("request", counts.played))
        self.waiting[rollout.slot] = rollout

    def receive(self, hang_seconds: float) -> Any:
        self.calls.append(("receive", hang_seconds, len(self.waiting)))
        fate = self._fates.pop(0) if self._fates else None
        if isinstance(fate, BaseException):
            raise fate
        delta = Delta(Counts(played=5), [], Lag(), {})
        if fate == "news":
            return None, delta
        return self.waiting.pop(next(iter(self.waiting))), delta

    def close(self) -> None:
        self.calls.append("close")


def played(shared: ActorContext, process: Process, rollouts: int) -> list[tuple[int, int, int]]:
    """The origins of so many rollouts, which go back at once."""
    delivered: list[tuple[int, int, int]] = []

    def deliver(rollout: Any) -> None:
        delivered.append((rollout.actor, rollout.generation, rollout.index))
        runner.queue.release([rollout])
        if len(delivered) == rollouts:
            raise Closed

    runner = ProcessRunner(process, shared)
    assert runner.number == process.number
    assert runner.watch is process.watch
    assert runner.successor() is None
    with pytest.raises(Closed):
        runner.run(deliver)
    return delivered


def test_every_rollout_of_a_process_has_its_origin_and_is_noted_before_it_is_delivered():
    shared, process = context(), Process()
    assert played(shared, process, 3) == [(1, 0, 0), (1, 0, 1), (1, 0, 2)]
    assert shared.journal.rollouts == [(1, 0, 0), (1, 0, 1), (1, 0, 2)]
    assert shared.progress.counts.played == 15
    assert process.calls[0] == ("start", 9.0)
    assert process.calls[-1] == "close"


def test_a_process_has_a_second_slot_while_it_fills_the_first_and_hears_of_the_counts():
    shared, process = context(), Process()
    played(shared, process, 3)
    assert [each for each in process.calls if each[0] == "receive"] == [("receive", 9.0, 2)] * 3
    assert [each for each in process.calls if each[0] == "request"] == [
        ("request", 0), ("request", 0), ("request", 5), ("request", 10),
    ]  # fmt: skip


def test_a_process_that_only_has_news_has_them_counted():
    shared, process = context(), Process(fates=["news"])
    assert played(shared, process, 1) == [(1, 0, 0)]
    assert shared.progress.counts.played == 10


def test_a_full_rollout_is_fetched_even_where_no_empty_one_is_left():
    shared, process = context(), Process()
    held = [shared.buffers.queue.acquire() for _ in range(3)]
    assert played(shared, process, 2) == [(1, 0, 0), (1, 0, 1)]
    assert [each for each in process.calls if each[0] == "receive"] == [("receive", 9.0, 1)] * 2
    assert len(held) == 3


def test_an_actor_that_is_not_wanted_any_more_gets_no_second_slot():
    shared, process = context(), Process(number=0)
    shared.workers.wanted = lambda kind, number: (kind, number) != ("actors", 0)  # type: ignore[method-assign]
    shared.workers.wait = lambda kind, number: None  # type: ignore[method-assign]
    played(shared, process, 2)
    assert [each for each in process.calls if each[0] == "receive"] == [("receive", 9.0, 1)] * 2


def test_a_lost_process_is_replaced_by_a_next_generation_and_none_of_its_slots_is_lost():
    shared, process = context(), Process(fates=[None, ActorLost("its process ended with status 3")])
    assert played(shared, process, 4) == [(1, 0, 0), (1, 1, 1), (1, 1, 2), (1, 1, 3)]
    assert shared.progress.counts.restarts == 1
    assert "actor-1: its process ended with status 3; another takes its place" in shared.progress.notices
    assert process.calls.count(("start", 9.0)) == 2
    free = [shared.buffers.queue.acquire_within(0.0) for _ in range(5)]
    assert len([each for each in free if each is not None]) == 4 - len(process.waiting)


def test_what_an_actor_raises_ends_the_run_and_its_process():
    shared, process = context(), Process(fates=[TroupeError("out of fuel")])
    with pytest.raises(TroupeError, match="out of fuel"):
        ProcessRunner(process, shared).run(lambda rollout: None)
    assert process.calls[-1] == "close"
    assert shared.progress.counts.restarts == 0


def test_a_process_begins_when_all_are_ready():
    shared, process, ended = context(awaited=[0, 1]), Process(), threading.Event()

    def run() -> None:
        played(shared, process, 1)
        ended.set()

    threading.Thread(target=run, daemon=True).start()
    while shared.ready.awaited() != {0}:
        assert not ended.wait(0.001)
    assert process.calls == [("start", 9.0)]
    shared.ready.add(0)
    assert ended.wait(PATIENCE_SECONDS)


def test_closing_a_runner_ends_its_process():
    process = Process()
    ProcessRunner(process, context()).close()
    assert process.calls == ["close"]


# An actor in a thread

SMALL = {
    "topology": "async", "network.hidden": (4,), "actor.count": 2, "actor.environments": 1, "actor.rollout_steps": 3,
    "actor.placement": "thread", "env.backend": "sync", "learner.rollouts": 1, "learner.minibatches": 1,
}  # fmt: skip


def test_every_rollout_of_a_thread_has_its_origin(assembled, counting):
    parts, delivered = assembled(counting, SMALL), []
    for _ in range(3):
        parts.runners[1].collect(delivered.append)
    assert [(each.actor, each.generation, each.index) for each in delivered] == [(1, 0, 0), (1, 0, 1), (1, 0, 2)]
    parts.close()


def test_the_time_of_an_actor_outside_its_rollout_is_that_of_a_wait(assembled, counting):
    """For an empty rollout before, and for the learner behind."""
    parts, stages = assembled(counting, SMALL), []
    runner = parts.runners[0]
    acquire, collect = runner.queue.acquire, runner.actor.collect

    def look(name, call):
        def looked(*arguments):
            stages.append((name, runner.watch.stage))
            return call(*arguments)

        return looked

    runner.queue.acquire, runner.actor.collect = look("acquire", acquire), look("collect", collect)
    runner.collect(look("deliver", lambda rollout: None))
    assert stages == [("acquire", "wait"), ("collect", "other"), ("deliver", "wait")]
    assert runner.watch is runner.actor.watch
    parts.close()


def test_lent_environments_are_held_between_two_rollouts_and_begin_anew(assembled, counting):
    parts = assembled(counting, SMALL)
    runner, delivered, collected = parts.runners[0], [], threading.Event()
    runner.collect(delivered.append)

    def collect():
        runner.collect(delivered.append)
        collected.set()

    with runner.lent():
        assert runner.lend() is runner.actor.lend()
        threading.Thread(target=collect, daemon=True).start()
        assert not collected.wait(0.02)
    assert collected.wait(PATIENCE_SECONDS)
    assert delivered[1].first[0].all()
    assert delivered[1].obs[0, 0].tolist() == [delivered[0].obs[-1, 0, 0] + 1, 0]
    parts.close()


def test_environments_are_not_lent_any_more_once_the_run_is_over(assembled, counting):
    parts = assembled(counting, SMALL)
    runner = parts.runners[0]
    with runner.lent():  # an evaluation that the end of the run interrupts: no new episode begins
        begun = runner.actor._obs.copy()
        parts.gate.stop()
    assert (runner.actor._obs == begun).all()
    with runner._collecting, pytest.raises(Closed), runner.lent():
        pytest.fail("it was lent")
    parts.close()


def test_a_thread_that_hangs_is_replaced_by_one_with_environments_of_its_own(assembled, counting):
    """The first keeps its rollout, ends when it is let go, and delivers nothing more."""
    let_go, hangs, made = threading.Event(), threading.Event(), []

    def before_step(episode, step):
        if threading.current_thread().name == "first" and step == 2:
            hangs.set()
            let_go.wait(PATIENCE_SECONDS)

    def make():
        made.append(counting(before_step=before_step))
        return made[-1]

    parts = assembled(make, SMALL | {"actor.count": 1, "actor.hang_seconds": 0.05, "actor.restarts": 1})
    (runner,), delivered, ended = parts.runners, [], []
    environments = len(made)

    def first():
        try:
            runner.run(delivered.append)
        except Retired:
            ended.append(Retired)

    thread = threading.Thread(target=first, name="first", daemon=True)
    thread.start()
    assert hangs.wait(PATIENCE_SECONDS)
    while (successor := runner.successor()) is None:
        pass
    assert runner.successor() is None  # of one that hangs one only

    def deliver(rollout):
        delivered.append(rollout)
        raise Closed

    with pytest.raises(Closed):
        successor(deliver)
    assert len(made) == environments + 1
    (rollout,) = delivered
    assert (rollout.actor, rollout.generation) == (0, 1)
    assert parts.progress.counts.restarts == 1
    (notice,) = parts.progress.notices
    assert "has not answered for 0.05 s; another takes its place; it was in\n" in notice
    let_go.set()
    thread.join(PATIENCE_SECONDS)
    assert ended == [Retired]
    assert len(delivered) == 1
    parts.close()


ACTORS = {
    "plain": {},
    "window": {"actor.window_steps": 3, "loss.kind": "a3c"},
    "worker": {"topology": "hogwild", "loss.kind": "a3c", "learner.epochs": 1},
}


@pytest.mark.parametrize("settings", ACTORS.values(), ids=ACTORS)
def test_closing_a_thread_closes_its_environments(assembled, counting, settings):
    closed = []

    class Closes(counting):
        def close(self):
            closed.append(self)

    parts = assembled(Closes, SMALL | settings)
    before = len(closed)
    parts.runners[0].close()
    assert len(closed) == before + 1
    parts.close()


@pytest.mark.parametrize("settings", ACTORS.values(), ids=ACTORS)
def test_an_actor_of_any_kind_can_be_replaced_and_tells_where_its_time_goes(assembled, counting, settings):
    parts = assembled(counting, SMALL | settings)
    runner = parts.runners[0]
    assert runner.watch is runner.actor.watch
    runner.actor.retire()
    with pytest.raises(Retired):
        runner.collect(lambda rollout: None)
    parts.close()


def test_closing_a_worker_closes_its_learner_too(assembled, counting):
    parts, closed = assembled(counting, SMALL | ACTORS["worker"]), []
    runner = parts.runners[0]
    runner.actor._learner.close = lambda: closed.append("learner")
    runner.close()
    assert closed == ["learner"]
    parts.close()


@pytest.mark.usefixtures("never_preempted")
def test_a_worker_says_when_it_learns(assembled, counting):
    parts, stages = assembled(counting, SMALL | ACTORS["worker"]), []
    worker = parts.runners[0].actor
    compute = worker._learner.compute_gradient
    worker._learner.compute_gradient = lambda rollout: stages.append(worker.watch.stage) or compute(rollout)
    parts.runners[0].collect(lambda rollout: stages.append(worker.watch.stage))
    assert stages == ["learn", "wait"]
    assert worker.watch.seconds.keys() >= {"learn", "other", "wait"}
    parts.close()
