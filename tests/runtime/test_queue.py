"""The rollout queue: bounded, in order, and nobody waits for ever."""

import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from helpers import PATIENCE_SECONDS
from troupe.runtime.data.queue import RolloutQueue
from troupe.runtime.execution.gate import Closed


def slots(count: int) -> list[SimpleNamespace]:
    return [SimpleNamespace(actor=-1, index=-1) for _ in range(count)]


class Waiting(threading.Thread):
    """Calls something that should wait; `result` is what came of it, once it no longer does."""

    def __init__(self, call: Callable[[], object]):
        super().__init__(daemon=True)
        self._call = call
        self.result: object = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._call()
        except Closed:
            self.result = Closed

    def still(self) -> bool:
        self.join(0.05)
        return self.is_alive()

    def ended(self) -> object:
        self.join(PATIENCE_SECONDS)
        assert not self.is_alive(), "it waits for ever"
        return self.result


@pytest.fixture
def fine_switching() -> Iterator[None]:
    """Threads change places a thousand times more often than usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


def test_rollouts_come_out_in_the_order_in_which_they_were_put():
    queue = RolloutQueue(slots(5))
    put = [queue.acquire() for _ in range(5)]
    for each in put:
        queue.put(each)
    assert queue.depth == 5
    assert [*queue.get(2), *queue.get(1), *queue.get(2)] == put
    assert queue.depth == 0


def test_take_all_takes_everything_there_is_and_the_fewest_only_that():
    queue = RolloutQueue(slots(5))
    for _ in range(5):
        queue.put(queue.acquire())
    assert len(queue.get(2)) == 2
    assert len(queue.get(2, take_all=True)) == 3


def test_an_actor_waits_while_all_rollouts_are_under_way():
    queue = RolloutQueue(slots(2))
    queue.put(queue.acquire())
    queue.put(queue.acquire())
    actor = Waiting(queue.acquire)
    assert actor.still()
    (oldest,) = queue.get(1)
    assert actor.still()  # the learner has it, and it is not free yet
    queue.release([oldest])
    assert actor.ended() is oldest


def test_a_learner_waits_for_as_many_as_it_needs():
    queue = RolloutQueue(slots(3))
    learner = Waiting(lambda: queue.get(3))
    for _ in range(2):
        queue.put(queue.acquire())
        assert learner.still()
    queue.put(queue.acquire())
    assert len(learner.ended()) == 3


def test_close_wakes_everybody_at_both_ends():
    queue = RolloutQueue(slots(2))
    queue.put(queue.acquire())
    queue.acquire()
    actors = [Waiting(queue.acquire) for _ in range(3)]
    learners = [Waiting(lambda: queue.get(2)) for _ in range(3)]
    assert all(each.still() for each in actors + learners)
    queue.close()
    assert [each.ended() for each in actors + learners] == [Closed] * 6


def test_a_closed_queue_gives_and_takes_nothing_even_if_it_could():
    queue = RolloutQueue(slots(3))
    held = queue.acquire()
    queue.put(queue.acquire())
    queue.close()
    for call in (queue.acquire, lambda: queue.get(1), lambda: queue.put(held)):
        with pytest.raises(Closed):
            call()
    queue.release([held])  # handing back is always allowed


@pytest.mark.parametrize("take_all", [False, True])
@pytest.mark.parametrize(("learners", "fewest"), [(1, 1), (3, 1), (3, 4)])
@pytest.mark.usefixtures("fine_switching")
def test_nothing_is_lost_doubled_or_overtaken_among_many_threads(learners, fewest, take_all):
    """For every actor, what has been got is 0, 1, 2, ... without a gap; for one learner also in that order."""
    for _ in range(3):
        queue = RolloutQueue(slots(10))
        got: dict[int, list[int]] = defaultdict(list)
        lock = threading.Lock()

        def act(number: int, queue: RolloutQueue = queue) -> None:
            for index in range(10**9):
                rollout = queue.acquire()
                rollout.actor, rollout.index = number, index
                queue.put(rollout)

        def learn(queue: RolloutQueue = queue, got: dict[int, list[int]] = got, lock: threading.Lock = lock) -> None:
            while True:
                taken = queue.get(fewest, take_all)
                assert len(taken) >= fewest
                with lock:
                    for each in taken:
                        got[each.actor].append(each.index)
                    if sum(map(len, got.values())) >= 600:
                        queue.close()
                queue.release(taken)

        threads = [Waiting(lambda n=n: act(n)) for n in range(4)] + [Waiting(learn) for _ in range(learners)]
        assert [each.ended() for each in threads] == [Closed] * len(threads)
        assert sum(map(len, got.values())) >= 600
        for indices in got.values():
            assert (indices if learners == 1 else sorted(indices)) == list(range(len(indices)))
