"""The gate of threads and of processes: who waits, for how long, and what the time counts for."""

import threading
from types import SimpleNamespace

import pytest

from helpers import PATIENCE_SECONDS
from troupe.runtime.execution import gate as gate_module
from troupe.runtime.execution.gate import Closed, Gate, RemoteGate


class Stages:
    """A stopwatch that writes down which stages were started."""

    def __init__(self) -> None:
        self.stage, self.started = "act", []

    def start(self, stage: str) -> None:
        self.stage = stage
        self.started.append(stage)


def test_the_wait_for_a_turn_is_a_pause_then_a_turn_and_inside_it_is_what_it_was():
    watch = Stages()
    with Gate().turn(watch):
        assert watch.started == ["pause", "turn", "act"]


def test_a_pause_is_seen_by_threads_and_processes_and_is_over_afterwards():
    gate = Gate()
    assert not gate.is_paused
    with gate.paused():
        assert gate.is_paused
        assert gate.switches["paused"][0]
        assert not gate.switches["stopped"][0]
    assert not gate.is_paused
    assert not gate.switches["paused"][0]


def test_a_stopped_gate_is_not_paused_any_more():
    """Who waits for the end of a pause would not hear of the stop."""
    gate = Gate()
    assert not gate.stopped
    gate.stop()
    assert gate.stopped
    assert gate.switches["stopped"][0]
    with gate.paused():
        assert not gate.is_paused
        assert not gate.switches["paused"][0]


def test_a_process_takes_its_turns_without_a_look_at_the_clock():
    gate, watch = Gate(), Stages()
    with RemoteGate(gate.switches).turn(watch):
        assert watch.started == []


def test_a_process_waits_while_the_run_is_paused_and_counts_that_as_a_pause(monkeypatch):
    gate, watch, slept = Gate(), Stages(), []
    remote = RemoteGate(gate.switches)

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            gate.switches["paused"][0] = False

    monkeypatch.setattr(gate_module, "time", SimpleNamespace(sleep=sleep))
    with gate.paused(), remote.turn(watch):
        assert len(slept) == 3
        assert max(slept) < 0.1
        assert watch.started == ["pause", "act"]


@pytest.mark.parametrize("paused", [False, True])
def test_a_process_hears_of_the_stop_also_in_a_pause(monkeypatch, paused):
    gate = Gate()
    remote = RemoteGate(gate.switches)
    monkeypatch.setattr(gate_module, "time", SimpleNamespace(sleep=lambda _: gate.stop()))
    assert not remote.stopped
    if paused:
        with gate.paused(), pytest.raises(Closed), remote.turn():
            pytest.fail("it was let in")
    else:
        gate.stop()
        with pytest.raises(Closed), remote.turn():
            pytest.fail("it was let in")
    assert remote.stopped


def test_switches_that_are_shared_reach_another_process(elsewhere):
    def wait(switches):
        from troupe.runtime.execution.gate import Closed, RemoteGate

        remote = RemoteGate(switches)
        try:
            while True:
                with remote.turn():
                    pass
        except Closed:
            return remote.stopped

    gate = Gate(shared=True)
    call = elsewhere(wait, gate.switches)
    gate.stop()
    assert call.result() is True


def test_a_thread_that_takes_turns_has_the_lock_only_inside():
    gate, inside = Gate(one_at_a_time=True), threading.Event()

    def enter():
        with gate.turn():
            inside.set()

    with gate.turn():
        thread = threading.Thread(target=enter, daemon=True)
        thread.start()
        assert not inside.wait(0.02)
    assert inside.wait(PATIENCE_SECONDS)
    thread.join(PATIENCE_SECONDS)
