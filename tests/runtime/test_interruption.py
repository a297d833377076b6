"""Signals that are acted on once, and work that can be abandoned."""

import os
import signal
import threading

import pytest

from helpers import PATIENCE_SECONDS
from troupe.runtime.execution import interruption
from troupe.runtime.execution.interruption import BackgroundWork, on_signal, run_interruptible
from troupe.signals import ENDING


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in ENDING]


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_the_first_signal_is_acted_on_and_a_second_has_its_ordinary_effect(number):
    before, acted = handlers(), []
    with on_signal(acted.append):
        assert all(one is not other for one, other in zip(before, handlers(), strict=True))
        os.kill(os.getpid(), number)
        assert acted == [number]
        assert handlers() == before
    assert handlers() == before


def test_without_a_signal_everything_is_as_it_was_afterwards():
    before, acted = handlers(), []
    with pytest.raises(ZeroDivisionError), on_signal(acted.append):
        raise ZeroDivisionError
    assert acted == []
    assert handlers() == before


def test_only_the_main_thread_may_ask_for_signals_and_others_work_without():
    worked = []

    def work() -> None:
        with on_signal(lambda _: None):
            worked.append(handlers())

    before, thread = handlers(), threading.Thread(target=work)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    assert worked == [before]


def test_work_in_the_background_is_done_when_it_is_and_its_thread_keeps_nobody_alive():
    let_go, seen = threading.Event(), []

    def work() -> str:
        seen.append(threading.current_thread())
        let_go.wait(PATIENCE_SECONDS)
        return "done"

    begun = BackgroundWork(work, "worker")
    assert not begun.wait(0.0)
    while not seen:
        assert not begun.wait(0.001)
    assert seen[0].name == "worker"
    assert seen[0].daemon
    assert any(line.endswith("in work") for line in begun.stack())
    let_go.set()
    assert begun.wait(PATIENCE_SECONDS)
    assert begun.result() == "done"
    named = run_interruptible(lambda: threading.current_thread().name, lambda: False)
    assert named == "interruptible", "by which an environment can tell where it is asked"


def test_work_in_the_background_takes_over_the_number_of_torchs_threads(monkeypatch):
    events = []
    monkeypatch.setattr(interruption, "apply_torch_threads", lambda: events.append("torch"))
    assert run_interruptible(lambda: events.append("work"), lambda: False) is None
    assert events == ["torch", "work"]


def test_what_work_raises_is_raised_where_its_result_is_asked_for():
    def work() -> None:
        raise KeyboardInterrupt("stop it")

    begun = BackgroundWork(work)
    assert begun.wait(PATIENCE_SECONDS)
    with pytest.raises(KeyboardInterrupt, match="stop it"):
        begun.result()
    with pytest.raises(KeyboardInterrupt, match="stop it"):
        run_interruptible(work, lambda: False)


def test_work_that_ends_has_its_result_and_work_that_is_given_up_none(monkeypatch):
    assert run_interruptible(lambda: 7, lambda: False) == 7
    assert run_interruptible(lambda: 7, lambda: True) == 7  # it ends soon
    monkeypatch.setattr(interruption, "_PATIENCE_SECONDS", 0.01)
    let_go, looks = threading.Event(), []

    def given_up() -> bool:
        looks.append(1)
        return len(looks) == 2

    assert run_interruptible(lambda: let_go.wait(PATIENCE_SECONDS), given_up) is None
    assert len(looks) == 2
    let_go.set()


def test_what_a_lock_raises_that_an_interrupt_released_is_an_interrupt():
    """As `threading.Condition` does where a second signal comes in the middle of a wait."""

    def waits() -> None:
        lock = threading.Condition()
        with lock:
            lock.release()
            raise KeyboardInterrupt

    with pytest.raises(RuntimeError) as raised:
        waits()
    assert interruption.is_interrupt(raised.value)
    assert not interruption.is_interrupt(RuntimeError("release unlocked lock"))
