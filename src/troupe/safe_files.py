"""Files of a run directory, which may come from a stranger: writing stays inside it, and reading is bounded.

Writing follows no links, and only regular files are opened: opening a pipe would block.
"""

import errno
import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

import msgspec

from troupe.config import TroupeError, UsageError, reason

T = TypeVar("T")
TEXT_BYTES = 2**24  # the most that is read of JSON; a checkpoint's state takes some kilobytes
SETTINGS_BYTES = 2**20  # and of TOML, whose parser is slow
LINES_BYTES = 2**32  # of metrics or a journal
WEIGHTS_BYTES = 2**34
LINE_BYTES = 2**20  # more than a line of ours has

_COMMON = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # not on Windows, where only privileged users make links


def read(path: Path, most_bytes: int = TEXT_BYTES) -> bytes:
    """The content of a regular file. Raises OSError for anything else, ValueError for one that is larger."""
    with open_to_read(path) as file:
        _check_size(path, file, most_bytes)
        return file.read()


def _check_size(path: Path, file: BinaryIO, most_bytes: int) -> None:
    size = os.fstat(file.fileno()).st_size
    if size > most_bytes:
        raise ValueError(f"{path.name} has {size:,} bytes, more than the {most_bytes:,} that are read")


def open_to_read(path: Path) -> BinaryIO:
    """Opens a regular file, unbuffered. Raises OSError for anything else."""
    return open(_regular(path, os.O_RDONLY), "rb", buffering=0)


def read_json(path: Path, kind: type[T]) -> T | None:
    """What the file holds, as a `kind`; None where it cannot be read or is none."""
    try:
        return msgspec.convert(json.loads(read(path)), kind)
    except (OSError, ValueError, RecursionError, msgspec.ValidationError):
        return None


def lines(path: Path) -> Iterator[bytes]:
    """The lines of a regular file, without their ends; of longer ones than any of ours only the beginning.

    Raises OSError for what is no regular file, ValueError for one that is too large.
    """
    with open_to_read(path) as raw, BufferedReader(cast(RawIOBase, raw)) as file:
        _check_size(path, raw, LINES_BYTES)
        long = False
        while line := file.readline(LINE_BYTES):
            if not long:
                yield line.rstrip(b"\r\n")
            long = not line.endswith(b"\n")


def create(path: Path) -> BinaryIO:
    """A new file, unbuffered; an existing file or link (not its target) is removed first."""
    path.unlink(missing_ok=True)
    return open(_regular(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK), "wb", buffering=0)


def append(path: Path) -> BinaryIO:
    """Opens a file to append and to read, unbuffered. Raises OSError for a link and for anything but a regular file."""
    return open(_regular(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | _NO_LINK), "ab+", buffering=0)


def _regular(path: Path, flags: int) -> int:
    descriptor = os.open(path, flags | _COMMON, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def folder(path: Path) -> Path:
    """The directory, made if it is missing. Raises OSError for a link."""
    path.mkdir(exist_ok=True)
    if path.is_symlink():
        raise OSError(errno.ELOOP, "it is a link, and nothing is written outside the run directory", str(path))
    return path


@contextmanager
def output_file(file: Path, formats: Sequence[str]) -> Iterator[Path]:
    """Yields a path to write to; it replaces `file` at the end, and is removed on failure."""
    if file.suffix.lower() not in formats:
        known = " or ".join(filter(None, (", ".join(formats[:-1]), formats[-1])))
        raise UsageError(f"cannot write {file}: its name must end in {known}")
    if not file.parent.is_dir():
        raise UsageError(f"cannot write {file}: there is no folder {file.parent}")
    if file.is_dir():
        raise UsageError(f"cannot write {file}: it is a folder")
    unfinished = file.with_name(f".{file.stem}.{os.getpid()}{file.suffix}")
    try:
        create(unfinished).close()
        unfinished.unlink()
    except OSError as error:
        raise UsageError(f"cannot write {file}: {reason(error)}") from error
    try:
        yield unfinished
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """Turns OSError into a TroupeError that names `file`; only for the writing itself."""
    try:
        yield
    except OSError as error:
        raise TroupeError(f"cannot write {file}: {reason(error)}") from error
