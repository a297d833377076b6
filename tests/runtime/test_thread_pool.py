"""The pool: results in order, work really at the same time, and nobody at work when `map` returns."""

import threading
import time

import pytest

from helpers import PATIENCE_SECONDS
from troupe.runtime.learning.thread_pool import ThreadPool


@pytest.fixture(params=[1, 2, 5])
def pool(request):
    made = ThreadPool(request.param)
    yield made
    made.close()


def test_results_are_in_the_order_of_the_items(pool):
    def slow_first(item):
        time.sleep(0.01 * (4 - item))
        return item * item

    assert pool.map(slow_first, range(5)) == [0, 1, 4, 9, 16]


@pytest.mark.parametrize("size", [2, 3, 6])
def test_all_work_at_the_same_time(size):
    """Nobody passes the barrier before all stand at it."""
    pool, barrier = ThreadPool(size), threading.Barrier(size)
    for _ in range(3):
        places = pool.map(lambda _: barrier.wait(PATIENCE_SECONDS), range(size))
        assert sorted(places) == list(range(size))
    pool.close()


def test_the_first_item_is_the_callers(pool):
    names = pool.map(lambda _: threading.current_thread(), range(pool.size))
    assert names[0] is threading.current_thread()
    assert threading.current_thread() not in names[1:] or pool.size == 1


def test_fewer_items_than_threads_are_done_all_the_same(pool):
    assert pool.map(str, [7]) == ["7"]


def test_one_alone_starts_no_thread():
    before = threading.active_count()
    pool = ThreadPool(1)
    assert pool.map(lambda item: threading.active_count(), range(3)) == [before] * 3
    pool.close()


@pytest.mark.parametrize("who", [0, 1, 2])
def test_what_one_raises_is_raised_when_all_others_have_ended(who):
    pool, ended = ThreadPool(3), []

    def work(item):
        if item == who:
            raise ValueError(f"item {item}")
        time.sleep(0.05)
        ended.append(item)

    with pytest.raises(ValueError, match=f"item {who}"):
        pool.map(work, range(3))
    assert sorted(ended) == sorted({0, 1, 2} - {who})
    assert pool.map(str, range(3)) == ["0", "1", "2"]  # and it goes on
    pool.close()


def test_where_all_raise_one_is_heard_and_all_have_ended():
    pool, begun = ThreadPool(3), []

    def work(item):
        begun.append(item)
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item"):
        pool.map(work, range(3))
    assert sorted(begun) == [0, 1, 2]
    pool.close()


def test_a_closed_pool_leaves_no_thread():
    before = set(threading.enumerate())
    pool, barrier = ThreadPool(4), threading.Barrier(4)
    pool.map(lambda _: barrier.wait(PATIENCE_SECONDS), range(4))
    mine = set(threading.enumerate()) - before
    assert len(mine) == 3
    pool.close()
    for thread in mine:
        thread.join(PATIENCE_SECONDS)
    assert not any(thread.is_alive() for thread in mine)
    pool.close()  # twice is no harm


def test_each_of_its_threads_takes_over_the_number_of_torchs(monkeypatch):
    """A thread that does not would take all cores for a small product."""
    here, barrier = [], threading.Barrier(3)
    name = "troupe.runtime.learning.thread_pool.apply_torch_threads"
    monkeypatch.setattr(name, lambda: here.append(threading.current_thread()))
    pool = ThreadPool(3)
    worked = pool.map(lambda _: (barrier.wait(PATIENCE_SECONDS), threading.current_thread())[1], range(3))
    assert {*here} == {*worked[1:]}
    pool.close()
