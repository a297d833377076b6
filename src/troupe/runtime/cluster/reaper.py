"""Ends the processes of a cluster that a program has started, whatever ends the program, SIGKILL included.

The program holds the writing end of a pipe. This file runs as a script of its own, which imports nothing of ours, and
reads from it: at its end the processes that it was told are killed, with all their descendants.
"""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LOOK_SECONDS = 2.0
_PATIENCE_SECONDS = 10.0


@contextmanager
def ended_with_this_program(start: Callable[[], object]) -> Iterator[None]:
    """Calls `start`, and kills the child processes that it has made at the end of the block or of this program."""
    before = _children(os.getpid())
    start()
    started = _children(os.getpid()) - before
    command = [sys.executable, "-I", __file__, *map("@".join, sorted(started))]
    reaper = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        assert reaper.stdin
        reaper.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            reaper.wait(_PATIENCE_SECONDS)


def _processes() -> list[tuple[str, str, str]]:
    """Of each process: its pid, its parent's, and when it started, as pids are used again."""
    if Path("/proc/self/stat").exists():  # small containers have no ps
        return list(_of_proc())
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,lstart="], capture_output=True, text=True, check=True)
    fields = [line.split() for line in listed.stdout.splitlines()]
    return [(pid, parent, "-".join(start)) for pid, parent, *start in fields]


def _of_proc() -> Iterator[tuple[str, str, str]]:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            fields = (process / "stat").read_text().rpartition(")")[2].split()  # a name in brackets may hold anything
            yield process.name, fields[1], fields[19]  # columns 4 and 22 of proc(5)


def _children(parent: int) -> set[tuple[str, str]]:
    """Their pids, and when they started."""
    return {(pid, start) for pid, of, start in _processes() if of == str(parent)}


def _with_descendants(roots: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Those of `roots` that are alive, and their descendants."""
    processes = _processes()
    found = {(pid, start) for pid, _, start in processes if (pid, start) in roots}
    size = -1
    while len(found) > size:
        size, parents = len(found), {pid for pid, _ in found}
        found |= {(pid, start) for pid, parent, start in processes if parent in parents}
    return found


def _watch(started: set[tuple[str, str]]) -> None:
    # Looked at again and again: what a program's death ends at once leaves children that are nobody's then.
    while not select.select([sys.stdin], [], [], _LOOK_SECONDS)[0]:
        started = _with_descendants(started)
    for pid, _ in _with_descendants(started):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(int(pid), signal.SIGKILL)


if __name__ == "__main__":
    _watch({(pid, start) for pid, _, start in (each.partition("@") for each in sys.argv[1:])})
