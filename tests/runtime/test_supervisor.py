"""The gate and the supervisor: all parts go on, wait and stop together, and no failure stays unseen."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from helpers import PATIENCE_SECONDS
from troupe.runtime.execution.gate import Closed, Gate
from troupe.runtime.execution.supervisor import Supervisor


class Company:
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
def company(request: pytest.FixtureRequest) -> Iterator[Company]:
    company = Company(one_at_a_time=request.param)
    with company.supervisor as supervisor:
        for name in company.turns:
            supervisor.start(name, company.play(name))
        yield company


# The gate


def test_parts_stand_still_while_it_is_paused_and_go_on_afterwards(company):
    company.both_have_played()
    with company.gate.paused():
        before = dict(company.turns)
        time.sleep(0.05)  # for hundreds of turns, if they did not stand still
        for name, turns in company.turns.items():
            assert turns <= before[name] + 1, "only a turn that had begun is made to its end"
    company.both_have_played()


def test_a_pause_ends_even_if_what_it_was_for_fails(company):
    with pytest.raises(ZeroDivisionError), company.gate.paused():
        raise ZeroDivisionError
    company.both_have_played()


def test_a_stop_reaches_those_who_wait_in_a_pause(company):
    with company.gate.paused():
        assert company.supervisor.stop(PATIENCE_SECONDS) == []


def test_nobody_is_let_into_a_turn_after_the_stop():
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


def test_stop_ends_all_parts_and_names_nobody(company):
    company.both_have_played()
    assert company.supervisor.stop(PATIENCE_SECONDS) == []
    assert company.supervisor.failure is None
    assert company.woken
    assert company.supervisor.wait(0)


def test_a_part_that_raises_stops_the_others_and_is_named_with_its_traceback(company):
    def fail() -> None:
        raise ZeroDivisionError("in the middle of it")

    assert not company.supervisor.wait(0)
    company.supervisor.start("actor-7", fail)
    assert company.supervisor.wait(PATIENCE_SECONDS)
    assert company.supervisor.stop(PATIENCE_SECONDS) == []
    failure = company.supervisor.failure
    assert failure.part == "actor-7"
    assert str(failure.error) == "in the middle of it"
    assert failure.error.__traceback__.tb_next.tb_frame.f_code.co_name == "fail"
    assert company.woken


def test_a_part_that_returns_early_has_failed(company):
    company.supervisor.start("learner-0", lambda: None)
    assert company.supervisor.wait(PATIENCE_SECONDS)
    assert company.supervisor.failure.part == "learner-0"
    assert "returned" in str(company.supervisor.failure.error)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, MemoryError])
def test_no_kind_of_exception_ends_a_part_unseen(company, error):
    def fail() -> None:
        raise error

    company.supervisor.start("part", fail)
    assert company.supervisor.wait(PATIENCE_SECONDS)
    assert isinstance(company.supervisor.failure.error, error)


def test_the_first_failure_is_kept_and_what_trips_over_the_stop_is_no_news(company):
    gate = company.gate

    def trip() -> None:
        while not gate.stopped:
            time.sleep(1e-3)
        raise ValueError("closed while I was reading")

    def fail() -> None:
        raise ZeroDivisionError

    company.supervisor.start("second", trip)
    company.supervisor.start("first", fail)
    assert company.supervisor.wait(PATIENCE_SECONDS)
    assert company.supervisor.stop(PATIENCE_SECONDS) == []
    assert company.supervisor.failure.part == "first"


def test_a_part_may_end_the_run_itself(company):
    def finish() -> None:
        company.supervisor.end()
        raise Closed

    company.supervisor.start("judge", finish)
    assert company.supervisor.wait(PATIENCE_SECONDS)
    assert company.supervisor.stop(PATIENCE_SECONDS) == []
    assert company.supervisor.failure is None


def test_a_thread_that_never_returns_is_left_behind_and_named(company):
    release = threading.Event()
    company.supervisor.start("actor-3", release.wait)
    assert company.supervisor.stop(patience_seconds=0.2) == ["actor-3"]
    release.set()


def test_leaving_the_with_block_stops_the_run_also_after_an_error():
    company = Company()

    def fails_outside() -> None:
        with company.supervisor as supervisor:
            supervisor.start("a", company.play("a"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails_outside()
    assert company.gate.stopped
    assert company.supervisor.stop(PATIENCE_SECONDS) == []
