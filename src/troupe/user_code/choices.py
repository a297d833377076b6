"""Settings that take a built-in name or a callable of the user's: losses, optimizers, encoders, backends, placements.

The user's callable is named `path/to/file.py:NAME` or `module:NAME`, or is passed from Python
(`troupe.train(loss=...)`). Some take arguments of their own, which are settings, typed by the callable's signature;
arguments with the name of a setting in the same group get that setting's value.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from troupe import hints
from troupe.config import PASSED, UsageError, check_value, fields
from troupe.config.signatures import Parameters, fill, parameters_of
from troupe.user_code import files
from troupe.user_code.files import PassedCallable

_passed: dict[tuple[str, str], PassedCallable] = {}  # by setting and name


def passed_name(value: object) -> str:
    """How settings name what Python passed."""
    return PASSED + re.sub(r"\W", "_", getattr(value, "__qualname__", type(value).__qualname__))


@dataclass(frozen=True)
class Choice:
    """A setting, `setting` ("loss.kind"), that chooses `what` ("loss"), which is also the keyword in Python.

    `keyword` is how Python passes it, if that is not the keyword `what`. `if_changed` is the consequence, for messages,
    if the file of its callable has changed since a run began.

    If the callable takes arguments of its own, `kwargs` is the table that holds them ("loss.kwargs") and `builtin` has
    the built-in callables. The first `leading` arguments are given by position; of the others, those in `shared` are
    settings of the group, and those in `passed` are given by the program.
    """

    what: str
    setting: str
    if_changed: str
    keyword: str = ""
    kwargs: str = ""
    builtin: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    leading: int = 0
    shared: Collection[str] = ()
    passed: Collection[str] = ()

    def is_builtin(self, name: str) -> bool:
        return name in fields()[self.setting].choices

    def named(self, value: str | Callable[..., Any]) -> str:
        """The value of the setting: the name itself, or one that stands for the callable in this process."""
        if not callable(value):
            return value
        first = name = passed_name(value)
        numbers = count(2)  # two lambdas have one name: a resumed run must not be given the other's
        while (other := _passed.get((self.setting, name))) and other.value is not value:
            name = f"{first}__{next(numbers)}"
        _passed[self.setting, name] = PassedCallable(value)
        return name

    def shown(self, name: str) -> str:
        """`name` for messages, without its file's folder."""
        return (
            re.sub(r"__\d+$", "", name.removeprefix(PASSED)) if name.startswith(PASSED) else files.without_folder(name)
        )

    def load(self, name: str) -> Callable[..., Any]:
        """The user's callable, whose file or module is executed; raises UsageError, in a line, if there is none."""
        if found := _passed.get((self.setting, name)):
            return found
        if name.startswith(PASSED):
            raise UsageError(
                f"the run's {self.what} was the callable {self.shown(name)}: "
                f"pass it as {self.keyword or f'{self.what}='} in Python"
            )
        check_value(self.setting, name)
        return files.load_callable(name, self.setting, self.what)

    def of_run(self, run: Path, name: str, hashes: Mapping[str, str]) -> Callable[..., Any] | None:
        """The user's callable of a run whose code is to be executed; None if it has a built-in one.

        Raises UsageError for code in the run directory, which may come from anybody.
        """
        self.check_code(run, name, hashes)
        return None if self.is_builtin(name) else self.load(name)

    def check_code(self, run: Path, name: str, hashes: Mapping[str, str]) -> None:
        """Before a run's code is executed: code that is gone or in its directory is refused, code that has changed is
        logged."""
        how = f"{self.keyword} in Python" if self.keyword else hints.code_option(self.what)
        files.check_there(name, self.what, how)
        code = () if name.startswith(PASSED) else files.code_of(name)
        files.refuse_inside(run, code, self.what)
        files.warn_of_changes([name], hashes, self.if_changed)

    def bind(self, name: str, settings: object, given: Mapping[str, Any]) -> Callable[..., Any]:
        """The callable with its arguments: the shared ones of `settings` that it takes, and `given`, its own."""
        values, _ = self.arguments(name, given)
        known = self._parameters(name).known
        taken = {each: getattr(settings, each) for each in self.shared if each in known}
        return partial(self._find(name), **taken, **values)

    def arguments(self, name: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Its own arguments as they are passed, and as config.toml holds them. Raises UsageError."""
        parameters = self._parameters(name)
        elsewhere = {*self.shared, *self.passed}
        own = {each: one for each, one in parameters.known.items() if each not in elsewhere}
        for each in given:
            if each in self.shared and each in parameters.known:
                raise UsageError(f"{self.kwargs}.{each}: it is set by --{self.setting.partition('.')[0]}.{each}")
        owner = f"{self.what} {self.shown(name)}"
        return fill(owner, self.kwargs, Parameters(own, parameters.open), given, texts=given)

    def takes(self, name: str, argument: str) -> bool:
        return argument in self._parameters(name).known

    def _find(self, name: str) -> Callable[..., Any]:
        return self.builtin.get(name) or self.load(name)

    def _parameters(self, name: str) -> Parameters:
        parameters = parameters_of(files.unwrapped(self._find(name)))
        return Parameters(dict(list(parameters.known.items())[self.leading :]), parameters.open)
