"""What an actor's process does, in a thread of the test: it fills the slots that it is asked for and reports."""

import fcntl
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from helpers import PATIENCE_SECONDS
from helpers.rollouts import check
from troupe.config import resolve
from troupe.environments import find
from troupe.networks.actor_critic import build
from troupe.networks.flat import FlatWeights
from troupe.runtime.assembly import make_plans
from troupe.runtime.data.rollout import RolloutSpec, allocate_shared
from troupe.runtime.data.shared_memory import Block, ByValue
from troupe.runtime.execution import process_child
from troupe.runtime.execution.gate import Gate
from troupe.runtime.execution.process_child import Report, Request, decode_report, encode, run_actor
from troupe.runtime.learning.weights import WeightStore

SETTINGS = {
    "actor.count": 3, "actor.environments": 2, "actor.rollout_steps": 4, "network.hidden": (4,), "env.backend": "sync",
    "exploration.epsilon": 0.8, "exploration.epsilon_end": 0.2, "exploration.decay_steps": 100,
}  # fmt: skip


@pytest.fixture(autouse=True)
def this_process_still_logs() -> Iterator[None]:
    """What ends in a process of its own with a logger that says nothing ends in the test's process here."""
    yield
    logging.getLogger("troupe").disabled = False


class Child:
    """Actor 2 of three, in a thread; the test is the run."""

    def __init__(self, env: Any, monkeypatch: pytest.MonkeyPatch, generation: int = 0):
        self.left: list[str] = []
        monkeypatch.setattr(process_child, "leave_the_terminal", lambda: self.left.append("terminal"))
        monkeypatch.setattr(process_child, "die_with_the_parent", lambda: self.left.append("parent"))
        monkeypatch.setattr(process_child.faulthandler, "register", self._register)
        monkeypatch.setattr(process_child.torch, "set_num_threads", lambda number: self.left.append(f"{number} thread"))
        config, source = resolve("x", settings=SETTINGS, tuned=False), find(env)
        network = build(source.observation_space, source.action_space, config.network)
        self.store, self.gate = WeightStore(FlatWeights(network).vector, 7), Gate()
        spec = RolloutSpec(source.packing.space, 4, 2, source.actions)
        block, self.rollouts = allocate_shared(spec, 3)
        self.pulses = Block({"pulse": ((3,), np.float64)}, shared=False)
        seeds = np.random.SeedSequence(1)
        plans = make_plans(config, source, seeds, seeds, 3, lambda _: (ByValue(network), self.store))
        self.seeded: list[int] = []
        seed = type(plans[2]).seed_process
        monkeypatch.setattr(type(plans[2]), "seed_process", lambda plan, number: self.seeded.append(number))
        assert seed is not type(plans[2]).seed_process
        self.end, theirs = multiprocessing.Pipe()
        self.stacks, stacks = multiprocessing.Pipe(duplex=False)
        arguments = (theirs, stacks, plans[2], block, 3, self.gate.switches, self.pulses, generation, {"TROUPE": "set"})

        def run() -> None:
            run_actor(*arguments)
            theirs.close()  # as the end of a process does

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def answer(self) -> Report:
        assert self.end.poll(PATIENCE_SECONDS)
        return decode_report(self.end.recv_bytes())

    def ask(self, slot: int, **counts: int) -> Report:
        self.end.send_bytes(encode(Request(slot, **{"played": 0, "steps": 0, "updates": 0} | counts)))
        return self.answer()

    def ended(self) -> bool:
        self.thread.join(PATIENCE_SECONDS)
        return not self.thread.is_alive()

    def _register(self, number: int, file: int, all_threads: bool) -> None:
        self.left.append(f"stack on signal {number}, all threads {all_threads}")
        os.write(file, b"a stack")


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Child]]:
    started: list[Child] = []
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    monkeypatch.delenv("TROUPE", raising=False)

    def make(env: Any, **more: Any) -> Child:
        started.append(Child(env, monkeypatch, **more))
        return started[-1]

    yield make
    for child in started:
        child.end.close()
        assert child.ended()


def test_a_process_settles_in_before_it_is_ready(start, counting):
    """It has the run's variables, no part in the terminal, one torch thread, and may start processes of its own."""
    child = start(counting, generation=3)
    report = child.answer()
    assert (report.slot, report.error, report.delta.counts.played) == (-1, "", 0)
    assert os.environ.pop("TROUPE") == "set"
    assert child.left == [
        "terminal",
        "parent",
        f"stack on signal {process_child.signal.SIGUSR1}, all threads False",
        "1 thread",
    ]
    assert os.read(child.stacks.fileno(), 100) == b"a stack"
    assert child.seeded == [3]
    assert not multiprocessing.current_process().daemon


@pytest.mark.usefixtures("never_preempted")
def test_the_slot_that_is_asked_for_is_filled_and_what_was_counted_is_reported(start, counting, script):
    child = start(counting)
    child.answer()
    for slot in (2, 0):
        report = child.ask(slot)
        rollout = child.rollouts[slot]
        check(rollout)
        assert report.slot == slot
        assert report.delta.counts.played == rollout.steps
        assert (
            report.delta.counts.episodes == len(report.delta.episodes) == (rollout.terminated | rollout.truncated).sum()
        )
        assert report.delta.reward == rollout.reward.sum()
        assert report.pulls == [(7, 0)]
        assert report.stage_seconds.keys() >= {"env", "act", "wait"}
        assert (rollout.policy_version == 7).all()
    assert not child.rollouts[1].obs.any()
    assert (child.rollouts[0].obs[0] == child.rollouts[2].obs[-1]).all()
    child.store.publish(child.store._copies[0])
    assert child.ask(1).pulls == [(8, 0)]


def test_epsilon_goes_by_the_counts_of_the_request_and_only_what_is_new_is_reported(start, counting):
    child = start(counting)
    child.answer()
    report = child.ask(0, played=50, steps=40, updates=30)
    total, weight = report.delta.metrics["epsilon"]
    assert total / weight == pytest.approx(0.5)
    assert report.pulls == [(7, 50)]
    counts = report.delta.counts
    assert (counts.played, counts.steps, counts.updates) == (child.rollouts[0].steps, 0, 0)


def test_its_pulse_is_the_one_of_its_number(start, counting):
    seen = []

    def look(episode: int, step: int) -> None:
        seen.append(list(pulses[0]["pulse"]) if pulses else [])

    pulses: list[Any] = []
    child = start(lambda: counting(before_step=look))
    pulses.append(child.pulses)
    child.answer()
    child.ask(0)
    first, second, third = seen[-1]
    assert first == second == 0.0 < third
    assert child.pulses["pulse"].tolist() == [0.0, 0.0, 0.0]


def test_what_the_environment_raises_is_reported_in_one_line_with_its_traceback(start, counting):
    def fail(episode: int, step: int) -> None:
        if episode == 1:
            raise ValueError("out of\nfuel")

    child = start(lambda: counting(before_step=fail))
    report = child.answer()
    while not report.error:
        report = child.ask(0)
    assert report.slot == -1
    assert "step raised ValueError: out of fuel" in report.error
    assert "in fail" in report.trace
    assert child.ended()


def test_an_environment_that_cannot_be_made_there_is_reported(start, counting):
    def make() -> Any:
        if threading.current_thread() is not threading.main_thread():
            raise OSError("no such device")
        return counting()

    report = start(make).answer()
    assert report.slot == -1
    assert "no such device" in report.error


@pytest.mark.parametrize("how", ["the pipe is closed", "the run is over"])
def test_the_end_of_the_run_is_its_own_and_environments_are_closed(start, counting, how):
    closed = []

    class Closes(counting):
        def close(self) -> None:
            closed.append(threading.current_thread())

    child = start(Closes)
    child.answer()
    closed.clear()
    if how == "the pipe is closed":
        child.end.close()
    else:
        child.gate.stop()
        child.end.send_bytes(encode(Request(0, 0, 0, 0)))
    assert child.ended()
    assert len(closed) == 2
    if how != "the pipe is closed":
        with pytest.raises(EOFError):  # it is no failure that would be reported
            child.end.recv_bytes()


# The death of the parent, which is a pipe and a process of the test here


class Parent:
    """What this process would do at its parent's death, written down instead of done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, sentinel: int, pid: int):
        self.asked: list[tuple[int, ...]] = []
        self.done: list[Any] = []
        self.over, parent = threading.Event(), SimpleNamespace(sentinel=sentinel, pid=pid)
        monkeypatch.setattr(process_child.multiprocessing, "parent_process", lambda: parent)
        monkeypatch.setattr(fcntl, "fcntl", lambda *given: self.asked.append(given) or os.O_APPEND)
        monkeypatch.setattr(process_child.os, "killpg", lambda *given: self.done.append(given))
        monkeypatch.setattr(process_child.os, "_exit", self._exit)

    def _exit(self, status: int) -> None:
        self.done.append(status)
        self.over.set()


@pytest.mark.skipif(sys.platform != "linux", reason="only there the kernel can be asked for it")
def test_a_process_and_those_of_its_environments_die_when_the_parents_pipe_ends(monkeypatch):
    reader, writer = os.pipe()
    parent = Parent(monkeypatch, reader, os.getpid())
    process_child.die_with_the_parent()
    # By the kernel, as no thread may be able to run; and by a thread.
    assert parent.asked == [
        (reader, fcntl.F_SETOWN, -os.getpid()),
        (reader, fcntl.F_SETSIG, signal.SIGKILL),
        (reader, fcntl.F_GETFL),
        (reader, fcntl.F_SETFL, os.O_APPEND | os.O_ASYNC),
    ]
    assert not parent.over.wait(0.02)
    os.close(writer)
    assert parent.over.wait(PATIENCE_SECONDS)
    assert parent.done == [(0, signal.SIGKILL), 1]
    os.close(reader)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="only Linux has them")
def test_a_process_dies_with_its_parent_also_where_another_one_holds_the_pipe(monkeypatch):
    reader, writer = os.pipe()
    with subprocess.Popen(["sleep", "1000"]) as other:
        parent = Parent(monkeypatch, reader, other.pid)
        process_child.die_with_the_parent()
        assert not parent.over.wait(0.02)
        other.kill()
        assert parent.over.wait(PATIENCE_SECONDS)
    assert parent.done == [(0, signal.SIGKILL), 1]
    os.close(writer)
    os.close(reader)


# In a process of its own


def test_a_process_leaves_the_terminals_group_and_ignores_its_interrupts(elsewhere):
    def leave():
        import signal

        from troupe.runtime.execution.process_child import leave_the_terminal

        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        leave_the_terminal()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        return os.getpgid(0) == os.getpid(), ignored, signal.SIGTERM in blocked

    assert elsewhere(leave).result() == (True, True, False)
