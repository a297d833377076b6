"""The arguments of the Python API, checked by name: a value of a wrong type is refused in a line, as a setting is."""

import inspect
import operator
import os
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar, get_args

from troupe.config.errors import UsageError, did_you_mean

Mode = Literal["auto", "plain", "quiet", "silent"]  # of what a run shows
P = ParamSpec("P")
R = TypeVar("R")


class _Expected(NamedTuple):
    fits: Callable[[Any], bool]
    words: str


def _whole(least: int) -> _Expected:
    def fits(value: Any) -> bool:
        try:
            return not isinstance(value, bool) and operator.index(value) >= least
        except TypeError:
            return False

    return _Expected(fits, f"a whole number of at least {least}")


_PATH = _Expected(lambda value: isinstance(value, str | os.PathLike), "a path")
_TABLE = _Expected(
    lambda value: isinstance(value, Mapping) and all(isinstance(name, str) for name in value), "a dict, by names"
)
_CODE = _Expected(lambda value: isinstance(value, str) or callable(value), "a name or a callable")
_EXPECTED = {
    "run": _PATH, "run_dir": _PATH, "video": _PATH, "file": _PATH,
    "runs": _Expected(_PATH.fits, "a path; several runs are several arguments: read_metrics(*runs)"),
    "settings": _TABLE, "env_kwargs": _TABLE, "schedules": _TABLE,
    "env": _CODE, "network": _CODE, "loss": _CODE, "optimizer": _CODE, "encoder": _CODE, "backend": _CODE,
    "placement": _CODE,
    "preset": _Expected(lambda value: isinstance(value, str), "the name of a preset"),
    "learners": _whole(1), "episodes": _whole(1), "num_envs": _whole(1), "seed": _whole(0),
}  # fmt: skip


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, whose arguments are checked by their names. None passes where it is the default."""
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: P.args, **named: P.kwargs) -> R:
        for name, value in signature.bind(*args, **named).arguments.items():
            parameter = signature.parameters[name]
            several = parameter.kind is inspect.Parameter.VAR_POSITIONAL
            for each in value if several else [value]:
                if not (each is None and parameter.default is None):
                    _check(name, each)
        return function(*args, **named)

    return call


def _check(name: str, value: Any) -> None:
    if name == "display" and value not in get_args(Mode):
        modes = get_args(Mode)
        raise UsageError(f"display = {value!r}: expected one of {', '.join(modes)}{did_you_mean(str(value), modes)}")
    expected = _EXPECTED.get(name)
    if expected and not expected.fits(value):
        raise UsageError(f"{name} = {_short(value)}: expected {expected.words}")


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
