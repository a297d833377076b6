"""The process around a command: its output streams, and signals while it runs."""

import ctypes
import io
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from types import FrameType

from troupe import signals
from troupe.config import TroupeError, reason


def prepare() -> None:
    """Makes signals that end a program raise KeyboardInterrupt, and both output streams writable."""
    for number in signals.ending():
        if number != signal.SIGINT:
            signal.signal(number, _interrupt)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the program that started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names may hold characters that no encoding has
            stream.reconfigure(errors="backslashreplace")


def _interrupt(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


@contextmanager
def interrupts_end_at_once() -> Iterator[None]:
    """For imports, which may swallow a KeyboardInterrupt, or be left half done by it and fail with something else."""

    def end(number: int, _: FrameType | None) -> None:
        with suppress(OSError, RuntimeError):  # it may come in the middle of a write
            sys.stdout.flush()
        with suppress(OSError):
            os.write(2, b"troupe: interrupted\n")
        os._exit(128 + number)

    in_main = threading.current_thread() is threading.main_thread()
    ours = [number for number in signals.ENDING if in_main and signal.getsignal(number) is _interrupt]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, _interrupt)


@contextmanager
def numbered_interrupts() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt with the signal's number, to distinguish it from one that an environment
    raises."""
    before = signal.getsignal(signal.SIGINT)
    is_default = before is signal.default_int_handler  # neither ignored, as in a shell's background, nor another's
    ours = is_default and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)


def write(text: str, end: str = "\n") -> None:
    """Prints to standard output. Raises BrokenPipeError, or TroupeError if it cannot be written for another reason."""
    try:
        print(text, end=end)
    except BrokenPipeError:
        raise
    except OSError as error:
        _drop_output()
        raise TroupeError(f"the output could not be written: {reason(error)}") from error


def flush(status: int) -> int:
    """Writes out what has been printed, while a failure can still be reported; returns the exit status."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _drop_output()
        if not isinstance(error, BrokenPipeError):
            with suppress(OSError):
                print(f"troupe: the output could not be written: {reason(error)}", file=sys.stderr)
            return status or 1
    return status


def end_server() -> None:
    """That of multiprocessing, which may still import what actors need, and the folder of its socket: a process that
    ends by `os._exit` would leave both behind."""
    if "multiprocessing" in sys.modules:
        folder = sys.modules["multiprocessing"].current_process()._config.get("tempdir")
        shutil.rmtree(folder or "", ignore_errors=True)
    if server := sys.modules.get("multiprocessing.forkserver"):
        with suppress(AttributeError, OSError, TypeError):
            os.kill(server._forkserver._forkserver_pid, signal.SIGKILL)


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def prints_to_stderr(enabled: bool) -> Iterator[None]:
    """Sends what environments, libraries and processes started meanwhile print to standard error (for --json)."""
    if not enabled:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).fflush(None)  # what C code has printed and not written yet
        os.dup2(kept, 1)
        os.close(kept)
