"""A lock on a run directory, so that one process at a time writes there; it ends with its owner, even a killed one.

Python has no such lock on Windows, and some network drives have none: directories are not locked there.
"""

import os
import re
import socket
from contextlib import suppress
from pathlib import Path

from troupe import safe_files
from troupe.config import UsageError, one_line

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

FILE = ".lock"
_OWNER = re.compile(r"process (\d+) on (.+)\n?")
_held: set[int] = set()  # descriptors; forked processes must not keep them


class Lock:
    """Holds `directory` for this process until `release`. Raises UsageError, naming the process, if another has it."""

    def __init__(self, directory: Path):
        self._file = directory / FILE
        self._descriptor: int | None = None
        while fcntl is not None and self._descriptor is None:
            descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_ours(descriptor):  # and not removed by its last owner since it was opened
                    self._descriptor, descriptor = descriptor, -1
            except BlockingIOError:
                owner = one_line(os.pread(descriptor, 100, 0).decode(errors="replace")) or "another process"
                raise UsageError(f"'{directory}' is in use by {owner}: wait for it to end, or stop it") from None
            except OSError:
                return  # no locks on this file system
            finally:
                if descriptor >= 0:
                    os.close(descriptor)
        if self._descriptor is not None:
            _held.add(self._descriptor)
            with suppress(OSError):  # a full disk: the content only informs people
                os.ftruncate(self._descriptor, 0)
                os.pwrite(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def release(self) -> None:
        """Unlocks the directory and removes the lock's file."""
        if self._descriptor is None:
            return
        if self._is_ours(self._descriptor):
            with suppress(OSError):
                self._file.unlink()
        _held.discard(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = None

    def _is_ours(self, descriptor: int) -> bool:
        """Whether the descriptor still is the file at this path."""
        with suppress(OSError):
            return os.path.samestat(os.fstat(descriptor), os.lstat(self._file))
        return False


def is_held(directory: Path) -> bool:
    """Whether a process has the directory, by what the lock's file says; it takes no lock itself, which could be in the
    way of a run that starts. Of a process on another host it is not known whether it still runs: true."""
    try:
        owner = _OWNER.fullmatch(safe_files.read(directory / FILE, 100).decode())
        if owner and fcntl is not None and owner[2] == socket.gethostname():  # on Windows kill would end the process
            os.kill(int(owner[1]), 0)
    except PermissionError:  # another user's
        return True
    except (OSError, ValueError, OverflowError):
        return False
    return owner is not None


def _forget() -> None:
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
