"""Settings that choose a callable: a built-in one, the user's by its name, or one that Python passes.

A callable's own arguments are settings, typed by its signature; those named like a setting of the same group have
that setting's value.
"""

import importlib.util
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle

from troupe.config import UsageError, did_you_mean
from troupe.config.signatures import Parameters, fill, parameters_of
from troupe.user_code import files

_PASSED = "python:"  # begins the name of what Python passes
_passed: dict[str, "PassedCallable"] = {}


@dataclass(frozen=True, eq=False)
class PassedCallable:
    """A callable of a script or a notebook: it reaches another process with its code."""

    value: Callable[..., Any]

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self.value(*given, **named)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpack, (cloudpickle.dumps(self.value),)


def _unpack(pickled: bytes) -> PassedCallable:
    return PassedCallable(cloudpickle.loads(pickled))


@dataclass(frozen=True)
class Choice:
    """What the setting `setting` ("loss.kind") chooses among.

    `leading` arguments are given by position. Of the others, those in `shared` are settings of the group, those in
    `passed` are given by the program, and the rest are in the table `kwargs` ("loss.kwargs").
    """

    what: str  # "loss"
    setting: str
    kwargs: str
    builtin: Mapping[str, Callable[..., Any]]
    leading: int
    shared: Collection[str]
    passed: Collection[str] = ()

    def named(self, value: Any) -> Any:
        """The value of the setting that stands for a callable; any other value as it is."""
        if not callable(value):
            return value
        name = _PASSED + re.sub(r"\W", "_", getattr(value, "__qualname__", type(value).__qualname__))
        _passed[name] = PassedCallable(value)
        return name

    def find(self, name: str) -> Callable[..., Any]:
        """Raises UsageError, in one line, where there is nothing of that name."""
        if found := self.builtin.get(name) or _passed.get(name):
            return found
        if name.startswith(_PASSED):
            passed = name.removeprefix(_PASSED)
            raise UsageError(f"the run's {self.what} was the callable {passed}: pass it as {self.what}= in Python")
        if ":" in name:
            return files.load_callable(name, self.setting, self.what)
        raise UsageError(
            f"{self.setting} = '{name}': no such {self.what}{did_you_mean(name, self.builtin)} (there are "
            f"{', '.join(self.builtin)}, path/to/file.py:NAME and module:NAME)"
        )

    def bind(self, name: str, settings: object, given: Mapping[str, Any]) -> Callable[..., Any]:
        """The callable with its arguments: the shared ones of `settings` that it takes, and `given`, its own."""
        values, _ = self.arguments(name, given)
        known = self._parameters(name).known
        taken = {each: getattr(settings, each) for each in self.shared if each in known}
        return partial(self.find(name), **taken, **values)

    def arguments(self, name: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Its own arguments as they are passed, and as config.toml holds them. Raises UsageError."""
        parameters = self._parameters(name)
        elsewhere = {*self.shared, *self.passed}
        own = {each: one for each, one in parameters.known.items() if each not in elsewhere}
        for each in given:
            if each in self.shared and each in parameters.known:
                raise UsageError(f"{self.kwargs}.{each}: it is set by --{self.setting.partition('.')[0]}.{each}")
        owner = f"{self.what} {files.without_folder(name)}"
        return fill(owner, self.kwargs, Parameters(own, parameters.open), given, texts=given)

    def takes(self, name: str, argument: str) -> bool:
        return argument in self._parameters(name).known

    def _parameters(self, name: str) -> Parameters:
        found = self.find(name)
        inner = found.value if isinstance(found, PassedCallable | files.FileCallable) else found
        parameters = parameters_of(inner)
        return Parameters(dict(list(parameters.known.items())[self.leading :]), parameters.open)

    def check_code(self, run: Path, name: str, hashes: Mapping[str, str]) -> None:
        """Before a run is resumed: code in its directory is refused, code that has changed is logged."""
        files.refuse_inside(run, code_of(name), self.what)
        files.warn_of_changes([name], hashes, f"the run continues with another {self.what}")


def code_of(name: str) -> Iterator[Path]:
    if path := files.path_of(name):
        yield path
    elif ":" in name and not name.startswith(_PASSED):
        spec = importlib.util.find_spec(name.partition(":")[0].partition(".")[0])
        if spec and spec.origin:
            yield Path(spec.origin)
