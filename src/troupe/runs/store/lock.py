"""One process at a time writes to a run directory: a lock that ends with its owner, however that ends.

Windows has no such lock in Python's library, and some network drives have none: nothing is guarded there.
"""

import os
import socket
from contextlib import suppress
from pathlib import Path

from troupe.config import UsageError, one_line

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

FILE = ".lock"
_held: set[int] = set()  # descriptors; a process that is forked from this one must not keep them


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
            with suppress(OSError):  # a full disk: the name is for people
                os.ftruncate(self._descriptor, 0)
                os.pwrite(self._descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def release(self) -> None:
        """Gives the directory back, and leaves no file behind."""
        if self._descriptor is None:
            return
        if self._is_ours(self._descriptor):
            with suppress(OSError):
                self._file.unlink()
        _held.discard(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = None

    def _is_ours(self, descriptor: int) -> bool:
        """Whether the file still stands where it was opened."""
        with suppress(OSError):
            return os.path.samestat(os.fstat(descriptor), os.lstat(self._file))
        return False


def _forget() -> None:
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
