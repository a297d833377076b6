"""The crew: results in order, work really at the same time, and nobody at work when `map` returns."""

import threading
import time

import pytest

from troupe.runtime.learning.thread_pool import Crew

PATIENCE_SECONDS = 60


@pytest.fixture(params=[1, 2, 5])
def crew(request):
    made = Crew(request.param)
    yield made
    made.close()


def test_results_stand_in_the_order_of_the_items(crew):
    def slow_first(item):
        time.sleep(0.01 * (4 - item))
        return item * item

    assert crew.map(slow_first, range(5)) == [0, 1, 4, 9, 16]


@pytest.mark.parametrize("size", [2, 3, 6])
def test_all_work_at_the_same_time(size):
    """Nobody passes the barrier before all stand at it."""
    crew, barrier = Crew(size), threading.Barrier(size)
    for _ in range(3):
        places = crew.map(lambda _: barrier.wait(PATIENCE_SECONDS), range(size))
        assert sorted(places) == list(range(size))
    crew.close()


def test_the_first_item_is_the_callers(crew):
    names = crew.map(lambda _: threading.current_thread(), range(crew.size))
    assert names[0] is threading.current_thread()
    assert threading.current_thread() not in names[1:] or crew.size == 1


def test_fewer_items_than_threads_are_done_all_the_same(crew):
    assert crew.map(str, [7]) == ["7"]


def test_one_alone_starts_no_thread():
    before = threading.active_count()
    crew = Crew(1)
    assert crew.map(lambda item: threading.active_count(), range(3)) == [before] * 3
    crew.close()


@pytest.mark.parametrize("who", [0, 1, 2])
def test_what_one_raises_is_raised_when_all_others_have_ended(who):
    crew, ended = Crew(3), []

    def work(item):
        if item == who:
            raise ValueError(f"item {item}")
        time.sleep(0.05)
        ended.append(item)

    with pytest.raises(ValueError, match=f"item {who}"):
        crew.map(work, range(3))
    assert sorted(ended) == sorted({0, 1, 2} - {who})
    assert crew.map(str, range(3)) == ["0", "1", "2"]  # and it goes on
    crew.close()


def test_where_all_raise_one_is_heard_and_all_have_ended():
    crew, begun = Crew(3), []

    def work(item):
        begun.append(item)
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item"):
        crew.map(work, range(3))
    assert sorted(begun) == [0, 1, 2]
    crew.close()


def test_a_closed_crew_leaves_no_thread_behind():
    before = set(threading.enumerate())
    crew, barrier = Crew(4), threading.Barrier(4)
    crew.map(lambda _: barrier.wait(PATIENCE_SECONDS), range(4))
    mine = set(threading.enumerate()) - before
    assert len(mine) == 3
    crew.close()
    for thread in mine:
        thread.join(PATIENCE_SECONDS)
    assert not any(thread.is_alive() for thread in mine)
    crew.close()  # twice is no harm
