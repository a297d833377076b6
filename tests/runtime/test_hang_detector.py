"""When an environment counts as hanging, by a clock of the test, and what is said about it."""

import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import troupe
from helpers import PATIENCE_SECONDS
from troupe.runtime.execution import hang_detector
from troupe.runtime.execution.hang_detector import HangDetector, hung, stack_of


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(hang_detector, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def polled(detector: HangDetector, now: list[float], times: int, every: float = 0.125) -> list[bool]:
    seen = []
    for _ in range(times):
        now[0] += every
        seen.append(detector.hangs())
    return seen


def test_it_hangs_once_it_has_not_answered_for_longer_than_allowed(now):
    """The first look sees that it is asked; eight more make a second, which is still allowed."""
    detector = HangDetector(np.array([5.0]), 1.0)
    assert polled(detector, now, 11) == [False] * 9 + [True] * 2


def test_each_answer_begins_anew(now):
    pulse = np.array([5.0])
    detector = HangDetector(pulse, 1.0)
    for answered in range(4):
        pulse[0] = 6.0 + answered
        assert not any(polled(detector, now, 9))
    assert polled(detector, now, 1) == [True]


@pytest.mark.parametrize(("asked", "seconds"), [(0.0, 1.0), (5.0, 0.0)], ids=["nobody asks", "no limit"])
def test_it_never_hangs_where_it_is_not_asked_or_there_is_no_limit(now, asked, seconds):
    assert not any(polled(HangDetector(np.array([asked]), seconds), now, 100))


def test_time_in_which_this_process_itself_stood_still_is_left_out(now):
    """Of each hour between two looks a fifth of a second counts."""
    detector = HangDetector(np.array([5.0]), 0.5)
    assert polled(detector, now, 4, every=3600.0) == [False, False, False, True]


def test_a_stack_begins_with_the_innermost_call_and_a_thread_that_has_ended_has_none():
    let_go, there = threading.Event(), threading.Event()

    def inner() -> None:
        there.set()
        let_go.wait(PATIENCE_SECONDS)

    def outer() -> None:
        inner()

    thread = threading.Thread(target=outer)
    assert stack_of(thread) == []  # nor has one that was not started
    thread.start()
    there.wait(PATIENCE_SECONDS)
    stack = stack_of(thread)
    functions = [line.rpartition(" in ")[2] for line in stack]
    assert functions.index("inner") < functions.index("outer") < functions.index("run")
    assert all("\n" not in line for line in stack)
    let_go.set()
    thread.join(PATIENCE_SECONDS)
    assert stack_of(thread) == []


def test_the_message_has_the_environments_part_of_the_stack_and_not_ours():
    ours = f'  File "{Path(troupe.__file__).parent}/environments/x.py", line 1, in step'
    theirs = ['  File "game.py", line 3, in wait', '  File "game.py", line 9, in step']
    said = hung("Game-v1", 2.5, [*theirs, ours, '  File "threading.py", line 7, in run'])
    assert said.splitlines() == [
        "environment Game-v1 has not answered for 2.5 s",
        '    File "game.py", line 3, in wait',
        '    File "game.py", line 9, in step',
    ]
    assert hung("Game-v1", 60.0, theirs).count("\n") == 2
    assert hung("Game-v1", 60.0, []) == "environment Game-v1 has not answered for 60 s"
