"""What ends the processes of a cluster: it knows children and their descendants, and kills nobody else."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from troupe.runtime.cluster import reaper
from troupe.runtime.cluster.reaper import ended_with_this_program


def test_a_child_is_found_with_its_parent_and_the_time_of_its_start():
    before = reaper._children(os.getpid())
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        (started,) = reaper._children(os.getpid()) - before
        pid, start = started
        assert (int(pid), start.isdigit()) == (child.pid, True)
        assert (str(child.pid), str(os.getpid()), start) in reaper._processes()
        assert reaper._children(child.pid) == set()
        child.stdin.close()
    assert started not in reaper._children(os.getpid())


def test_without_proc_the_processes_are_those_that_ps_lists(monkeypatch):
    """Its last column is a date of several words."""
    listed = "    1     0 Fri Nov 27 05:42:00 2026\n  231     1 Fri Nov 27 06:00:01 2026\n"
    monkeypatch.setattr(reaper, "Path", lambda path: SimpleNamespace(exists=lambda: path != "/proc/self/stat"))
    run = lambda words, **how: SimpleNamespace(stdout=listed if how["text"] else "")  # noqa: E731
    monkeypatch.setattr(reaper.subprocess, "run", run)
    assert reaper._processes() == [
        ("1", "0", "Fri-Nov-27-05:42:00-2026"), ("231", "1", "Fri-Nov-27-06:00:01-2026"),
    ]  # fmt: skip


FAMILY = [("1", "0", "a"), ("10", "1", "b"), ("11", "10", "c"), ("12", "11", "d"), ("20", "1", "e"), ("13", "12", "f")]


def test_descendants_are_followed_to_the_last_and_a_pid_that_is_used_again_is_somebody_else(monkeypatch):
    monkeypatch.setattr(reaper, "_processes", lambda: FAMILY)
    assert reaper._with_descendants({("10", "b")}) == {("10", "b"), ("11", "c"), ("12", "d"), ("13", "f")}
    assert reaper._with_descendants({("20", "e"), ("12", "d")}) == {("20", "e"), ("12", "d"), ("13", "f")}
    assert reaper._with_descendants({("10", "started later")}) == set()
    assert reaper._with_descendants(set()) == set()


def test_what_was_started_is_killed_at_the_end_of_the_program_with_what_it_started_meanwhile(monkeypatch):
    """A grandchild whose parent has died is nobody's child any more: it was seen in time."""
    looks, killed, alive = [], [], list(FAMILY)

    def select(read, write, wrong, seconds):
        assert (read, write, wrong) == ([sys.stdin], [], [])
        looks.append(seconds)
        if len(looks) == 2:  # 12 has lost its parent
            alive[:] = [("12", "1", "d"), ("13", "12", "f"), ("20", "1", "e")]
        return (read if len(looks) == 3 else [], [], [])

    def kill(pid, number):
        killed.append((pid, number))
        if pid == 13:
            raise ProcessLookupError

    monkeypatch.setattr(reaper, "_processes", lambda: alive)
    monkeypatch.setattr(reaper, "select", SimpleNamespace(select=select))
    monkeypatch.setattr(reaper.os, "kill", kill)
    reaper._watch({("10", "b")})
    assert sorted(killed) == [(12, signal.SIGKILL), (13, signal.SIGKILL)]
    assert len(looks) == 3
    assert 0 < min(looks) <= max(looks) < 5


class Reaper:
    """What is started to watch over a cluster."""

    def __init__(self, late: bool):
        self.late, self.events = late, []
        self.stdin = SimpleNamespace(close=lambda: self.events.append("closed"))

    def __call__(self, command, **how):
        self.command, self.how = command, how
        return self

    def wait(self, seconds):
        self.events.append(f"waited {seconds:g} s")
        if self.late:
            raise subprocess.TimeoutExpired("reaper", seconds)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_what_a_program_starts_is_watched_over_until_the_block_ends(monkeypatch, late, fails):
    children, watch = {("7", "a")}, Reaper(late)
    monkeypatch.setattr(reaper, "_children", lambda pid: set(children) if pid == os.getpid() else set())
    monkeypatch.setattr(reaper.subprocess, "Popen", watch)

    def block():
        with ended_with_this_program(lambda: children.update({("9", "c"), ("8", "b")})):
            assert watch.events == []
            if fails:
                raise ZeroDivisionError

    if fails:
        with pytest.raises(ZeroDivisionError):
            block()
    else:
        block()
    assert watch.command[0] == sys.executable
    assert watch.command[-3:] == [reaper.__file__, "8@b", "9@c"]
    assert watch.how == {"stdin": subprocess.PIPE, "start_new_session": True}
    assert watch.events == ["closed", "waited 10 s"]
