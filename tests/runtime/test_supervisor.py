"""The gate and the supervisor: all parts go on, wait and stop together, and no failure stays unseen."""

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from helpers import PATIENCE_SECONDS
from troupe.runtime.execution import supervisor as supervisor_module
from troupe.runtime.execution.gate import Closed, Gate, Retired
from troupe.runtime.execution.supervisor import Supervisor, idlest_core


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
                if one_at_a_time:
                    time.sleep(1e-3)
                else:
                    meeting.wait(PATIENCE_SECONDS)
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


def test_a_part_that_was_replaced_ends_and_the_run_goes_on(workers):
    ended = threading.Event()

    def retire() -> None:
        ended.set()
        raise Retired

    workers.supervisor.start("actor-0", retire)
    assert ended.wait(PATIENCE_SECONDS)
    workers.both_have_played()
    assert workers.supervisor.failure is None


def test_a_part_that_is_closed_while_the_run_goes_on_has_failed(workers):
    def close() -> None:
        raise Closed("its queue is gone")

    workers.supervisor.start("actor-0", close)
    assert workers.supervisor.wait(PATIENCE_SECONDS)
    assert workers.supervisor.failure.part == "actor-0"


def test_a_wait_for_the_end_is_over_when_the_time_is_up(workers):
    assert workers.supervisor.wait(0.01) is False


def test_threads_have_their_names_and_keep_no_program_alive(workers):
    mine = [thread for thread in threading.enumerate() if thread.name in workers.turns]
    assert sorted(thread.name for thread in mine) == ["a", "b"]
    assert all(thread.daemon for thread in mine)


@pytest.mark.parametrize("allowed", [True, False])
def test_a_thread_runs_on_the_core_that_it_was_given_if_the_system_lets_it(monkeypatch, allowed):
    asked, ran, over = [], threading.Event(), threading.Event()

    def work():
        ran.set()
        over.wait(PATIENCE_SECONDS)

    def set_affinity(pid, cores):
        asked.append((pid, cores, threading.current_thread().name))
        if not allowed:
            raise PermissionError

    monkeypatch.setattr(supervisor_module.os, "sched_setaffinity", set_affinity, raising=False)
    supervisor = Supervisor(Gate(), lambda: None)
    for name, core in (("anywhere", None), ("there", 3)):
        supervisor.start(name, work, core)
        assert ran.wait(PATIENCE_SECONDS)
        ran.clear()
    assert asked == [(0, {3}, "there")]
    assert supervisor.failure is None
    supervisor.end()
    over.set()


class Statistics:
    """/proc/stat, as it is at each look."""

    def __init__(self, *texts: str):
        self.texts, self.asked = list(texts), []

    def __call__(self, path: str) -> "Statistics":
        self.asked.append(path)
        return self

    def read_text(self) -> str:
        if not self.texts:
            raise FileNotFoundError
        return self.texts.pop(0)


def ticks(*idle: int) -> str:
    rows = [f"cpu{core} 10 20 30 {each} 5000 60 70 80 90 100" for core, each in enumerate(idle)]
    return "\n".join(["cpu  10 20 30 999 5000 60 70 80 90 100", *rows, "intr 1 2 3 4 5", "ctxt 7"])


@pytest.fixture
def four_cores(monkeypatch):
    """Of which this program may use 1, 2 and 3."""
    monkeypatch.setattr(supervisor_module, "time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setattr(supervisor_module.os, "sched_getaffinity", lambda pid: {3, 1, 2}, raising=False)
    monkeypatch.setattr(supervisor_module.os, "sched_setaffinity", lambda pid, cores: None, raising=False)

    def give(*texts: str) -> Statistics:
        statistics = Statistics(*texts)
        monkeypatch.setattr(supervisor_module, "Path", statistics)
        return statistics

    return give


def test_the_idlest_core_is_the_one_that_idled_most_meanwhile_and_that_may_be_used(four_cores):
    statistics = four_cores(ticks(0, 400, 100, 300), ticks(900, 405, 150, 310))
    assert idlest_core() == 2
    assert statistics.asked == ["/proc/stat"] * 2


def test_of_cores_that_are_equally_idle_any_is_chosen(four_cores):
    chosen = set()
    for _ in range(40):
        four_cores(ticks(0, 100, 200, 300), ticks(0, 150, 201, 350))
        chosen.add(idlest_core())
    assert chosen == {1, 3}
    four_cores()  # no such file
    assert idlest_core() in {1, 2, 3}


def test_where_the_system_lets_nobody_choose_there_is_no_core(monkeypatch):
    monkeypatch.delattr(supervisor_module.os, "sched_setaffinity", raising=False)
    assert idlest_core() is None


def test_each_thread_takes_over_the_number_of_torchs_before_it_works(monkeypatch):
    """A thread that does not would take all cores for a small product."""
    events, ran = [], threading.Event()
    monkeypatch.setattr(supervisor_module, "apply_torch_threads", lambda: events.append("torch"))
    supervisor = Supervisor(Gate(), lambda: None)
    supervisor.start("a", lambda: (events.append("work"), ran.set()))
    assert ran.wait(PATIENCE_SECONDS)
    assert events == ["torch", "work"]
    assert supervisor.stop(PATIENCE_SECONDS) == []
