"""What threads of a run share, under many threads at once: the same on a build of Python with a lock and without.

Each structure is named in docs/architecture.md, with what guards it.
"""

import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

import gymnasium as gym
import numpy as np
import pytest
import torch

from helpers import PATIENCE_SECONDS
from troupe.runtime.data.queue import RolloutQueue
from troupe.runtime.data.rollout import FIELDS, RolloutSpec, allocate_shared
from troupe.runtime.execution.gate import Closed, Gate
from troupe.runtime.execution.worker_counts import ReadyLatch, WorkerCounts
from troupe.runtime.learning.normalizer_statistics import NormalizerStatistics
from troupe.runtime.learning.weights import HogwildMaster, Master, WeightStore
from troupe.runtime.progress import Counts, Delta, Episode, Lag, Progress, Stopwatch

THREADS = 6
PLACES = slice(0, 1), slice(1, 2)


@pytest.fixture(autouse=True)
def fine_switching() -> Iterator[None]:
    """Where there is a lock, threads change places a thousand times more often than usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


def together(*works: Callable[[], None]) -> None:
    """Does all works at the same time, each in a thread; raises what the first one raised, but Closed."""
    barrier, raised = threading.Barrier(len(works)), list[BaseException]()

    def run(work: Callable[[], None]) -> None:
        try:
            barrier.wait(PATIENCE_SECONDS)
            work()
        except Closed:
            pass
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(thread.is_alive() for thread in threads) and not raised:
        assert time.monotonic() < deadline, "one waits for ever"
        time.sleep(0.005)
    if raised:
        raise raised[0]


def while_others_work(look: Callable[[], None], *works: Callable[[], None]) -> None:
    """Does the works at the same time, and `look` again and again until they are done."""
    left, lock = [len(works)], threading.Lock()

    def counted(work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            with lock:
                left[0] -= 1

    def keep_looking() -> None:
        while left[0]:
            look()

    together(keep_looking, *(lambda work=work: counted(work) for work in works))


def test_slots_of_the_queue_are_nobodys_but_their_holders():
    """An actor writes its number into every array of a slot; whoever gets the slot finds it everywhere, and each
    actor's rollouts once."""
    _, rollouts = allocate_shared(RolloutSpec(gym.spaces.Box(-9, 9, (3,), np.float32), 4, 2), 5)
    queue, got, lock = RolloutQueue(rollouts), defaultdict[int, list[int]](list), threading.Lock()

    def act(number: int) -> None:
        for index in range(10**9):
            rollout = queue.acquire()
            for name in FIELDS:
                getattr(rollout, name)[...] = number
            rollout.actor, rollout.index = number, index
            queue.put(rollout)

    def learn() -> None:
        while True:
            taken = queue.get(2, take_all=True)
            for each in taken:
                for name in FIELDS:
                    array = getattr(each, name)
                    assert (array == np.asarray(each.actor).astype(array.dtype)).all(), name
            with lock:
                for each in taken:
                    got[each.actor].append(each.index)
                if sum(map(len, got.values())) >= 400:
                    queue.close()
            queue.release(taken)

    together(*(lambda number=number: act(number) for number in range(4)), learn, learn)
    for indices in got.values():
        assert sorted(indices) == list(range(len(indices)))


def test_weights_are_of_one_version_whoever_publishes_them():
    """Version k has the weights k everywhere, and no reader sees versions fall."""
    vector = torch.zeros(5_000)
    store = WeightStore(vector)
    master = Master(vector, lambda weights: _Adds(), store)

    def learn() -> None:
        for _ in range(100):
            with master.lock:
                master.apply(torch.ones(1), 1.0)
                master.publish()

    def pull() -> None:
        pulled, version = torch.empty(5_000), -1
        while version < 200:
            newer = store.pull(pulled, version)
            assert newer >= version
            assert pulled.min() == pulled.max() == newer
            version = newer

    together(learn, learn, *[pull] * (THREADS - 2))
    assert store.version == 200


def test_no_update_of_hogwilds_workers_is_lost_from_the_version():
    master = HogwildMaster(torch.zeros(10), lambda weights: _Adds(), THREADS)

    def work(number: int) -> None:
        for _ in range(200):
            master.apply(torch.ones(1), 1.0)
            master.count(number)

    together(*(lambda number=number: work(number) for number in range(THREADS)))
    assert master.version == THREADS * 200


@pytest.mark.parametrize("own", [True, False], ids=["a writer for each thread", "one writer under the master's lock"])
def test_statistics_are_those_of_all_batches(own):
    statistics, vector = NormalizerStatistics(1, PLACES, THREADS if own else 1), torch.zeros(2)
    master: HogwildMaster | Master
    if own:
        master = HogwildMaster(vector, lambda weights: _Adds(), THREADS, statistics=statistics)
    else:
        master = Master(vector, lambda weights: _Adds(), WeightStore(vector), statistics)

    def write(number: int) -> None:
        for value in range(40):
            rows = torch.full((5, 1), float(value))
            master.observe(rows, rows[:, 0], number if own else 0)

    def look() -> None:
        assert statistics.return_std >= 0
        assert statistics.state()["moments"].isfinite().all()

    while_others_work(look, *(lambda number=number: write(number) for number in range(THREADS)))
    seen = torch.arange(40.0, dtype=torch.float64)
    count, mean, squares = statistics.state()["moments"]
    assert count.tolist() == [THREADS * 40 * 5] * 2
    assert mean.tolist() == pytest.approx([float(seen.mean())] * 2)
    assert (squares / count).tolist() == pytest.approx([float(seen.var(correction=0))] * 2)


def test_progress_counts_everything_once(blank):
    progress, rollout, taken = Progress(), blank(1, 3), Counter[str]()

    def take() -> None:
        taken["episodes"] += len(progress.take_episodes())
        taken["reward steps"] += progress.take_reward()[1]
        taken["metrics"] += int(sum(weight for *_, weight in progress.metrics.take().values()))
        assert len(progress.recent_returns()) <= 100
        counts, recent = progress.state()
        assert counts.episodes * 2 == counts.played
        assert len(recent) == min(100, counts.episodes)

    def work(number: int) -> None:
        for index in range(150):
            progress.play(2, [Episode(float(index), 2)], 1.0)
            progress.consume([rollout], 1)
            progress.update(applied=index % 2 == 0)
            progress.stale()
            progress.metrics.add({"loss": torch.tensor(1.0)}, 1)
            progress.notice_once({f"subject {index}": f"notice {index}", f"of {number}": "mine"})
            progress.add(Delta(Counts(played=2, episodes=1), [Episode(0.0, 2)], Lag(), {f"subject {index}": ""}, 1.0))

    while_others_work(take, *(lambda number=number: work(number) for number in range(THREADS)))
    take()
    all_ = THREADS * 150
    counts = progress.counts
    assert (counts.played, counts.episodes, counts.steps) == (4 * all_, 2 * all_, 3 * all_)
    assert (counts.updates, counts.skipped_updates, counts.stale) == (all_ / 2, all_ / 2, all_)
    assert taken == {"episodes": 2 * all_, "reward steps": 4 * all_, "metrics": all_}
    assert len(progress.notices) == 150 + THREADS


@pytest.mark.usefixtures("never_preempted")
def test_a_stopwatch_that_is_read_meanwhile_counts_no_second_twice():
    watch = Stopwatch()
    began, before = time.perf_counter(), [0.0]
    watch.start("wait")

    def look() -> None:
        seen = sum(watch.seconds.values())
        assert before[0] <= seen + 1e-9
        assert seen <= time.perf_counter() - began
        before[0] = seen

    def work() -> None:
        for _ in range(3000):
            for stage in ("act", "env", "wait"):
                watch.start(stage)

    while_others_work(look, work)


def test_only_wanted_workers_are_inside_a_turn_one_at_a_time_and_all_end():
    gate = Gate(one_at_a_time=True)
    counts, latch = WorkerCounts(gate, 1, 0, 0), ReadyLatch(gate, range(THREADS))
    inside, turns = list[int](), [0] * THREADS

    def work(number: int) -> None:
        latch.add(number)
        latch.wait()
        while True:
            counts.wait("actors", number)
            with gate.turn():
                inside.append(number)
                time.sleep(0)  # the others run
                assert inside == [number]
                turns[number] += 1
                inside.pop()

    def control() -> None:
        latch.wait()
        for wanted in [*range(1, THREADS + 1), 2, THREADS]:
            counts.set(actors=wanted)
            enough = sum(turns) + 20
            while sum(turns) < enough:
                time.sleep(0)
        while not all(turns):
            time.sleep(0)
        gate.stop()

    together(*(lambda number=number: work(number) for number in range(THREADS)), control)
    assert all(turns)


class _Adds:
    """An optimizer that adds the gradient to the weights."""

    def step(self, weights: torch.Tensor, gradient: torch.Tensor, learning_rate: float) -> None:
        weights.add_(gradient, alpha=learning_rate)

    def state(self) -> dict[str, torch.Tensor]:
        return {}
