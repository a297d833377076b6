"""Callables of the user by name: `path/to/file.py:NAME`, or `module:NAME`."""

import hashlib
import importlib
import importlib.abc
import importlib.util
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import cloudpickle

from troupe.config import UsageError, did_you_mean, one_line, reason
from troupe.user_code.guard import user_code

_FILE = re.compile(r"(.+\.py):(\w+)")
_folders: set[str] = set()  # of the files executed so far
_importing = threading.RLock()  # another thread must not find a module that is half executed


def path_of(name: str) -> Path | None:
    """The file in `path/to/file.py:NAME`; None for every other kind of name."""
    match = _FILE.fullmatch(name)
    return Path(match[1]) if match else None


def code_of(name: str) -> Iterator[Path]:
    """The file of `path/to/file.py:NAME`, or that of the package of `module:NAME`; nothing for other kinds of names."""
    if path := path_of(name):
        yield path
    elif ":" in name and (spec := importlib.util.find_spec(name.partition(":")[0].partition(".")[0])) and spec.origin:
        yield Path(spec.origin)


def absolute(name: str) -> str:
    """`name` with the absolute path of its file; unchanged if it names no file."""
    path = path_of(name)
    return f"{os.path.abspath(path)}:{name.rpartition(':')[2]}" if path else name


def without_folder(name: str) -> str:
    """`name` for messages: the file without its folder."""
    path = path_of(name)
    return f"{path.name}:{name.rpartition(':')[2]}" if path else name


def digests(names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the files in `names`, by absolute path. Raises UsageError if one cannot be read."""
    paths = [os.path.abspath(path) for path in map(path_of, names) if path]
    try:
        return {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths}
    except OSError as error:
        raise UsageError(f"{error.filename}: {reason(error)}") from None


def check_there(name: str, what: str, passed: str) -> None:
    """Raises UsageError where the file that `name` is in, of a run that exists, is gone. `passed` says how to name
    another."""
    path = path_of(name)
    if path and not path.is_file():
        raise UsageError(
            f"no file '{path}' to take the {what} '{name.rpartition(':')[2]}' from; if it moved, pass {passed}"
        )


def refuse_inside(run: Path, paths: Iterable[Path], what: str) -> None:
    """Raises UsageError for code in the run directory, which may come from anybody."""
    for path in paths:
        if is_inside(run, path):
            raise UsageError(
                f"the {what} of '{run}' is code in the run directory itself ({path}), which is not executed; "
                "if you trust it, move it elsewhere and name its new path in config.toml"
            )


def is_inside(run: Path, path: Path) -> bool:
    return any(run.resolve() in each.parents for each in (Path(os.path.abspath(path)), path.resolve()))


def warn_of_changes(names: Iterable[str], hashes: Mapping[str, str], consequence: str) -> None:
    """Logs which of the files in `names` no longer have the SHA-256 that config.toml keeps of them."""
    warn = logging.getLogger("troupe").warning
    for name in names:
        path = path_of(name)
        if path is None or not path.is_file():
            continue
        if not path.is_absolute():
            warn(f"config.toml names {name} by a relative path: {os.path.abspath(path)} is used")
        elif hashes.get(str(path)) not in (None, *digests([name]).values()):
            warn(f"{path} has changed since the run began: {consequence}")


@dataclass(frozen=True, eq=False)
class FileCallable:
    """A callable defined in a Python file.

    It is pickled as the text of that file, which another process executes: its module-level objects need not be
    picklable, and later changes of the file do not matter.
    """

    path: Path
    name: str
    text: bytes
    value: Callable[..., Any]

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self.value(*given, **named)

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_text, (self.path, self.name, self.text)


@dataclass(frozen=True, eq=False)
class PassedCallable:
    """A callable of a script or a notebook, pickled with its code."""

    value: Callable[..., Any]

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self.value(*given, **named)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpack, (cloudpickle.dumps(self.value),)

    def __deepcopy__(self, memo: dict[int, Any]) -> "PassedCallable":
        return self  # as functions and classes are


def _unpack(pickled: bytes) -> PassedCallable:
    return PassedCallable(cloudpickle.loads(pickled))


def unwrapped(found: Callable[..., Any]) -> Callable[..., Any]:
    """The callable that the user wrote."""
    return found.value if isinstance(found, FileCallable | PassedCallable) else found


def load_callable(name: str, setting: str, what: str) -> Callable[..., Any]:
    """The callable that `path/to/file.py:NAME` or `module:NAME` names.

    Raises UsageError, in one line that begins with `setting` unless the name makes that clear.
    """
    if path_of(name):
        return load(name, what)
    module_name, colon, attribute = name.partition(":")
    if not colon:
        raise UsageError(f"{setting}: '{name}' is not module:{what.title()} or path/to/file.py:{what.title()}")
    try:
        with user_code():
            module = importlib.import_module(module_name)
    except Exception as error:
        raise UsageError(f"{setting}: '{module_name}' cannot be imported: {one_line(error)}") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        public = [key for key in dir(module) if not key.startswith("_")]
        raise UsageError(f"{setting}: {module_name} has no '{attribute}'{did_you_mean(attribute, public)}")
    return found  # type: ignore[no-any-return]


def load(name: str, what: str) -> FileCallable:
    """The callable that `path/to/file.py:NAME` names; `what` is its kind, for error messages.

    Raises UsageError, in one line, if there is no such file or callable, or if the file raises.
    """
    path = path_of(name)
    assert path is not None
    if not path.is_file():
        raise UsageError(f"no file '{path}' to take the {what} '{name.rpartition(':')[2]}' from")
    return _from_text(path, name.rpartition(":")[2], path.read_bytes())


def _from_text(path: Path, name: str, text: bytes) -> FileCallable:
    with _importing:
        module = _module(Path(os.path.abspath(path)), text, path)
    value = getattr(module, name, None)
    if not callable(value):
        callables = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UsageError(f"{path} has no callable '{name}'{did_you_mean(name, callables)}")
    return FileCallable(path, name, text, value)


class _Text(importlib.abc.InspectLoader):
    """Imports the text that was read, even if the file has changed since."""

    def __init__(self, text: bytes, path: str):
        self._text, self._path = text, path

    def get_source(self, fullname: str) -> str:  # noqa: ARG002
        return importlib.util.decode_source(self._text)

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002
        return self.source_to_code(self._text, self._path)


def _module(path: Path, text: bytes, shown: Path) -> ModuleType:
    """The file as a module, executed once for each text it has had.

    It is in sys.modules, where dataclasses look up postponed annotations, under a unique name.
    """
    key = hashlib.sha256(str(path).encode() + b"\0" + text).hexdigest()[:16]
    name = f"troupe_file_{path.stem}_{key}"
    if name in sys.modules:
        return sys.modules[name]
    loader = _Text(text, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _neighbours_importable(path.parent), user_code():
            loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(f"{shown} cannot be imported: {one_line(error)}") from error
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _neighbours_importable(folder: Path) -> Iterator[None]:
    """Lets a file import those beside it, as a script may: its folder is first in sys.path while it is executed, and
    last afterwards, so that it does not shadow other packages.

    Actor processes start with the same sys.path.
    """
    directory = str(folder)
    for name, module in list(sys.modules.items()):  # a file of the same name beside another environment
        file = getattr(module, "__file__", None)
        beside = "." not in name and file and os.path.dirname(file) in _folders - {directory}
        if beside and not name.startswith("troupe_file_") and (folder / f"{name}.py").is_file():
            del sys.modules[name]
    _folders.add(directory)
    before = directory in sys.path
    sys.path.insert(0, directory)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(directory)
        if not before:
            sys.path.append(directory)
