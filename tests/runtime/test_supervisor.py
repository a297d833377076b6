"""The gate and the supervisor: all parts go on, wait and stop together, and no failure stays unseen."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from helpers import PATIENCE_SECONDS
from troupe.runtime.execution.gate import Closed, Gate
from troupe.runtime.execution.supervisor import Supervisor


class Workers:
    """Parts that take turns for ever, and that count what they did."""

    def __init__(self, *, one_at_a_time: bool = False) -> None:
        self.gate = Gate(one_at_a_time=one_at_a_time)
        self.woken = 0
        self.turns = {"a": 0, "b": 0}
        self.supervisor = Supervisor(self.gate, self._wake)

    def _wake(self) -> None:
        self.woken += 1

    def play(self, name: str) -> Callable[[], None]:
        def run() -> None:
            while True:
                with self.gate.turn():
                    self.turns[name] += 1
                time.sleep(1e-4)

        return run

    def both_have_played(self) -> None:
        """Returns when each part has made a turn that began after this call."""
        before = dict(self.turns)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while any(self.turns[name] < before[name] + 2 for name in before):
            assert time.monotonic() < deadline, "they make no turns"
            time.sleep(1e-3)


@pytest.fixture(params=[False, True], ids=["competing", "one at a time"])
def workers(request: pytest.FixtureRequest) -> Iterator[Workers]:
    workers = Workers(one_at_a_time=request.param)
    with workers.supervisor as supervisor:
        for name in workers.turns:
            supervisor.start(name, workers.play(name))
        yield workers


# The gate


def test_threads_wait_while_the_gate_is_paused_and_continue_afterwards(workers):
    workers.both_have_played()
    with workers.gate.paused():
        before = dict(workers.turns)
        time.sleep(0.05)  # for hundreds of turns, if they did not wait
        for name, turns in workers.turns.items():
            assert turns <= before[name] + 1, "only a turn that had begun is finished"
    workers.both_have_played()


def test_a_pause_ends_even_if_what_it_was_for_fails(workers):
    with pytest.raises(ZeroDivisionError), workers.gate.paused():
        raise ZeroDivisionError
    workers.both_have_played()


def test_a_stop_reaches_those_who_wait_in_a_pause(workers):
    with workers.gate.paused():
        assert workers.supervisor.stop(PATIENCE_SECONDS) == []


def test_no_turn_begins_after_the_stop():
    gate = Gate()
    gate.stop()
    for _ in range(2):
        with pytest.raises(Closed), gate.turn():
            pytest.fail("it was let in")
    with gate.paused(), pytest.raises(Closed), gate.turn():
        pytest.fail("it was let in")


@pytest.mark.parametrize("one_at_a_time", [True, False])
def test_threads_that_take_turns_are_never_inside_together(one_at_a_time):
    gate = Gate(one_at_a_time=one_at_a_time)
    inside, most = [], [0]
    meeting = threading.Barrier(2)

    def run() -> None:
        meeting.wait(PATIENCE_SECONDS)
        for _ in range(20):
            with gate.turn():
                inside.append(1)
                time.sleep(1e-3)
                most[0] = max(most[0], len(inside))
                inside.pop()

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert most[0] == (1 if one_at_a_time else 2)


def test_a_turn_that_fails_is_given_back():
    gate = Gate(one_at_a_time=True)
    with pytest.raises(ZeroDivisionError), gate.turn():
        raise ZeroDivisionError
    with gate.turn():
        pass


# The supervisor


def test_stop_ends_all_threads_and_names_none(workers):
    workers.both_have_played()
    assert workers.supervisor.stop(PATIENCE_SECONDS) == []
    assert workers.supervisor.failure is None
    assert workers.woken
    assert workers.supervisor.wait(0)


def test_a_part_that_raises_stops_the_others_and_is_named_with_its_traceback(workers):
    def fail() -> None:
        raise ZeroDivisionError("in the middle of it")

    assert not workers.supervisor.wait(0)
    workers.supervisor.start("actor-7", fail)
    assert workers.supervisor.wait(PATIENCE_SECONDS)
    assert workers.supervisor.stop(PATIENCE_SECONDS) == []
    failure = workers.supervisor.failure
    assert failure.part == "actor-7"
    assert str(failure.error) == "in the middle of it"
    assert failure.error.__traceback__.tb_next.tb_frame.f_code.co_name == "fail"
    assert workers.woken


def test_a_part_that_returns_early_has_failed(workers):
    workers.supervisor.start("learner-0", lambda: None)
    assert workers.supervisor.wait(PATIENCE_SECONDS)
    assert workers.supervisor.failure.part == "learner-0"
    assert "returned" in str(workers.supervisor.failure.error)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, MemoryError])
def test_no_kind_of_exception_ends_a_part_unseen(workers, error):
    def fail() -> None:
        raise error

    workers.supervisor.start("part", fail)
    assert workers.supervisor.wait(PATIENCE_SECONDS)
    assert isinstance(workers.supervisor.failure.error, error)


def test_the_first_failure_is_kept_and_what_trips_over_the_stop_is_no_news(workers):
    gate = workers.gate

    def trip() -> None:
        while not gate.stopped:
            time.sleep(1e-3)
        raise ValueError("closed while I was reading")

    def fail() -> None:
        raise ZeroDivisionError

    workers.supervisor.start("second", trip)
    workers.supervisor.start("first", fail)
    assert workers.supervisor.wait(PATIENCE_SECONDS)
    assert workers.supervisor.stop(PATIENCE_SECONDS) == []
    assert workers.supervisor.failure.part == "first"


def test_a_part_may_end_the_run_itself(workers):
    def finish() -> None:
        workers.supervisor.end()
        raise Closed

    workers.supervisor.start("judge", finish)
    assert workers.supervisor.wait(PATIENCE_SECONDS)
    assert workers.supervisor.stop(PATIENCE_SECONDS) == []
    assert workers.supervisor.failure is None


def test_a_thread_that_never_returns_is_left_behind_and_named(workers):
    release = threading.Event()
    workers.supervisor.start("actor-3", release.wait)
    end, left = time.monotonic() + PATIENCE_SECONDS, workers.supervisor.stop(patience_seconds=0.05)
    while len(left) > 1 and time.monotonic() < end:  # the others end as soon as the machine lets them
        left = workers.supervisor.stop(patience_seconds=0.05)
    assert left == ["actor-3"]
    release.set()


def test_leaving_the_with_block_stops_the_run_also_after_an_error():
    workers = Workers()

    def fails_outside() -> None:
        with workers.supervisor as supervisor:
            supervisor.start("a", workers.play("a"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails_outside()
    assert workers.gate.stopped
    assert workers.supervisor.stop(PATIENCE_SECONDS) == []
