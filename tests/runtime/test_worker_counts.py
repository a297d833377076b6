"""How many workers there may be and are, and the latch that opens when all actors are ready."""

import threading

import pytest

from helpers import PATIENCE_SECONDS
from troupe.config import resolve
from troupe.runtime.execution.gate import Closed, Gate
from troupe.runtime.execution.worker_counts import ReadyLatch, WorkerCounts, worker_limits

GA3C = {"actor.count": 3, "inference.predictors": 2, "learner.count": 5}
MOST = {"adjust.most_actors": 7, "adjust.most_predictors": 4, "adjust.most_learners": 1}


def limits(every_seconds: float) -> dict[str, int]:
    settings = GA3C | MOST | {"adjust.every_seconds": every_seconds}
    return worker_limits(resolve("x", "ga3c", settings, tuned=False))


def test_without_a_controller_there_are_as_many_as_the_settings_say():
    assert limits(0.0) == {"actors": 3, "predictors": 2, "learners": 5}


def test_a_controller_may_have_its_most_of_each_but_none_that_is_there_is_too_many():
    assert limits(1.0) == {"actors": 7, "predictors": 4, "learners": 5}


def test_who_is_beyond_the_count_waits_until_it_is_wanted():
    counts, begun = WorkerCounts(Gate(), 2, 1, 1), threading.Event()
    assert [counts.wanted("actors", number) for number in range(4)] == [True, True, False, False]
    assert [counts.wanted(kind, number) for kind in ("predictors", "learners") for number in (0, 1)] == [
        True, False, True, False,
    ]  # fmt: skip
    counts.wait("actors", 1)

    def work() -> None:
        counts.wait("actors", 2)
        begun.set()

    threading.Thread(target=work, daemon=True).start()
    assert not begun.wait(0.02)
    counts.set(actors=3)
    assert begun.wait(PATIENCE_SECONDS)
    assert counts.current == {"actors": 3, "predictors": 1, "learners": 1}


@pytest.mark.parametrize("number", [0, 5], ids=["one that is wanted", "one that waits"])
def test_the_end_of_the_run_is_the_end_of_every_worker(number):
    gate, ended = Gate(), threading.Event()
    counts = WorkerCounts(gate, 1, 1, 1)

    def work() -> None:
        try:
            while True:
                counts.wait("actors", number)
        except Closed:
            ended.set()

    threading.Thread(target=work, daemon=True).start()
    assert not ended.wait(0.02)
    gate.stop()
    assert ended.wait(PATIENCE_SECONDS)


def test_the_latch_opens_with_the_last_actor():
    latch = ReadyLatch(Gate(), [0, 1, 4])
    assert not latch.open
    latch.add(1)
    latch.add(1)
    latch.add(7)  # nobody waits for that one
    awaited = latch.awaited()
    assert awaited == {0, 4}
    awaited.clear()  # a copy
    latch.add(0)
    assert latch.awaited() == {4}
    assert not latch.open
    latch.wait_for(0.0)
    latch.add(4)
    assert latch.open
    latch.wait()
    assert latch.awaited() == set()


def test_where_nobody_is_awaited_the_latch_is_open():
    assert ReadyLatch(Gate(), ()).open


def test_a_run_that_ends_before_its_actors_are_ready_is_over_for_those_who_wait():
    gate = Gate()
    latch = ReadyLatch(gate, [0])
    gate.stop()
    with pytest.raises(Closed):
        latch.wait()


def test_a_wait_for_actors_ends_when_they_are_ready_or_the_time_is_up():
    latch, waited = ReadyLatch(Gate(), [0]), threading.Event()

    def wait() -> None:
        latch.wait_for(PATIENCE_SECONDS)
        waited.set()

    threading.Thread(target=wait, daemon=True).start()
    assert not waited.wait(0.02)
    latch.add(0)
    assert waited.wait(PATIENCE_SECONDS)
