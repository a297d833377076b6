"""Whether code that a run names may be imported, which executes it: the run may come from a stranger.

Trusted is what Gymnasium and the packages that register environments with it have, what the user names in the call, and
what this user has trained with. That is remembered as hashes of names and arguments, in a file of the user's, so one's
own runs need no word. All else is imported only if the user says so.
"""

import hashlib
import json
import os
import stat
import sys
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from troupe import hints, safe_files
from troupe.config import PASSED, TrainConfig, UsageError, named_callables, value_of
from troupe.user_code import files

EXPORTED = ("network.custom", "network.encoder")
EVALUATED = (*EXPORTED, "env.id", "env.wrappers", "env.backend")
_ARGUMENTS = {
    "env.id": "env.kwargs", "env.backend": "env.kwargs", "loss.kind": "loss.kwargs",
    "learner.optimizer": "learner.optimizer_kwargs",
}  # fmt: skip
_OF_GYMNASIUM = "gymnasium.wrappers:"
_remembered: set[str] = set()  # by this process: the file may not be writable


def check(
    run: Path, config: TrainConfig, passed: Collection[str], settings: Collection[str] = (), *, trust: bool
) -> None:
    """Before code that `run` names is imported. Of `settings` (none: of all), those in `passed` name code of the
    caller's own.

    On a terminal the user is asked. Raises UsageError, which names the code, without trust.
    """
    if trust:
        return
    known = _known()
    new = [
        f"{name} ({setting})"
        for setting, name in _named(config)
        if setting not in passed and (not settings or setting in settings)
        if not _is_refused(run, name) and _key(config, setting, name) not in known
    ]
    if not new:
        return
    text = f"'{run}' names code that you have not trained with, and importing it executes it: {', '.join(new)}"
    if hints.on_terminal():
        print(f"troupe: {text}\nIs it to be trusted? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            return
    raise UsageError(f"{text}; if you trust it, {hints.either('add --trust', 'pass trust=True')}")


def remember(config: TrainConfig) -> None:
    """The user trains with the code that `config` names."""
    new = {_key(config, setting, name) for setting, name in _named(config)} - _known()
    if not new:
        return
    _remembered.update(new)
    with suppress(OSError, RuntimeError):
        _file().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(_file(), flags, 0o600)
        try:
            os.write(descriptor, "".join(f"{key}\n" for key in sorted(new)).encode())
        finally:
            os.close(descriptor)


def _named(config: TrainConfig) -> Iterator[tuple[str, str]]:
    """The settings whose values name code outside of Gymnasium, with the names."""
    wrappers = (("env.wrappers", name) for name in config.env.wrappers)
    for setting, name in (("env.id", config.env.id), *wrappers, *named_callables(config).items()):
        if ":" in name and not name.startswith((PASSED, _OF_GYMNASIUM)):
            yield setting, files.absolute(name)


def _is_refused(run: Path, name: str) -> bool:
    """Whether it is not imported in any case: a file that is gone, or in the run directory."""
    path = files.path_of(name)
    return (path is not None and not path.is_file()) or any(files.is_inside(run, each) for each in _code_of(name))


def _key(config: TrainConfig, setting: str, name: str) -> str:
    """Of the name, the file that it stands for now, and the arguments."""
    arguments = value_of(config, _ARGUMENTS[setting]) if setting in _ARGUMENTS else {}
    facts = json.dumps([name, _code_of(name), arguments], sort_keys=True, default=str)
    return hashlib.sha256(facts.encode()).hexdigest()


def _code_of(name: str) -> list[Path]:
    """The files that a name stands for now; none where it cannot be found."""
    with suppress(ImportError, ValueError):
        return list(files.code_of(name))
    return []


def _known() -> set[str]:
    """What the user has trained with; a file that others can write to counts for nothing."""
    with suppress(OSError, RuntimeError, ValueError):
        status = _file().stat()
        if os.name != "posix" or (status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
            return _remembered | set(safe_files.read(_file()).decode().split())
    return _remembered


def _file() -> Path:
    folder = os.environ.get("XDG_STATE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".local" / "state"
    return Path(folder) / "troupe" / "trained-with"
