"""How processes are started: without the terminal's signals, without the user's script, from one server."""

import multiprocessing
import multiprocessing.forkserver
import multiprocessing.util
import signal
import sys
from contextlib import suppress

import pytest

from troupe.runtime.execution import process_launch
from troupe.runtime.execution.process_launch import may_have_processes, no_main, process_context, signals_blocked
from troupe.signals import ENDING


def blocked() -> set[int]:
    return signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_signals_that_end_a_command_are_blocked_inside_and_others_are_not():
    before = blocked()
    with signals_blocked():
        assert blocked() == before | set(ENDING)
    assert blocked() == before
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        with pytest.raises(ZeroDivisionError), signals_blocked():
            raise ZeroDivisionError
        assert signal.SIGTERM in blocked(), "it was blocked before"
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_where_signals_cannot_be_blocked_processes_start_all_the_same(monkeypatch):
    before = blocked()
    monkeypatch.delattr(process_launch.signal, "pthread_sigmask")
    with signals_blocked():
        pass
    monkeypatch.undo()
    assert blocked() == before


def test_the_users_script_is_hidden_while_a_process_starts_and_back_afterwards():
    """It would be imported in every process."""
    script = sys.modules["__main__"]
    with suppress(ZeroDivisionError), no_main():
        hidden = sys.modules["__main__"]
        assert hidden is not script
        assert not hasattr(hidden, "__file__")
        raise ZeroDivisionError
    assert sys.modules["__main__"] is script


def test_two_threads_do_not_hide_the_script_from_each_other():
    with no_main():
        assert process_launch._starting.locked()
    assert not process_launch._starting.locked()


def test_a_worker_of_a_pool_may_have_no_processes(monkeypatch):
    assert may_have_processes()
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    assert not may_have_processes()


@pytest.mark.parametrize(("platform", "method"), [("linux", "forkserver"), ("darwin", "spawn")])
def test_the_server_is_one_that_has_imported_what_actors_need(monkeypatch, platform, method):
    started = []
    server = multiprocessing.forkserver
    monkeypatch.setattr(process_launch.sys, "platform", platform)
    monkeypatch.setattr(server, "set_forkserver_preload", lambda names: started.append(names))
    monkeypatch.setattr(server, "ensure_running", lambda: started.append(blocked() >= set(ENDING)))
    assert process_context().get_start_method() == method
    assert started == ([["troupe.runtime.execution.process_child"], True] if platform == "linux" else [])


def test_output_that_cannot_be_written_keeps_no_process_from_starting(monkeypatch):
    """On a full disk, or after `troupe train ... | head`: the library would flush it before, and fail."""

    def fails() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(multiprocessing.util, "_flush_std_streams", fails)
    with no_main():
        multiprocessing.util._flush_std_streams()
    assert multiprocessing.util._flush_std_streams is fails
